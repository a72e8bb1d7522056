"""What the certified policy does around the certificate: which yes to believe, the audit, what to reject."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.answers import AUDIT, Action, Stream, final_verdicts
from clustering.arrays import Ints
from clustering.evidence import clopper_pearson, hypergeometric_interval, rogan_gladen
from clustering.search._certificate import Accepted
from clustering.search._parts import DecisionRows
from clustering.search._plan import Plan
from clustering.search._step import StepInput, smallest

__all__ = ["audit", "believable_labels", "reject_tail", "verify_each"]

_REJECT = 0.1
"""Masks are rejected where at most this share of them is good: deleting ten wrong masks takes an annotator
about as long as drawing a missing one."""
_TAILS = (0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
"""Predicted shares of good masks below which a tail is tried, largest first."""
_WORTH_ASKING = 0.25
"""In pools where each instance is asked about: least predicted share of yes."""
_VERIFIED_TOGETHER = 20


def verify_each(at: StepInput) -> bool:
    """Ask about the instances of a pool too small for a test, best first, 20 at a time.

    Returns True when the rest is not worth asking about.
    """
    p_yes, known = at.verifier(at.plan.after_all)
    left = np.flatnonzero(~known & (p_yes >= _WORTH_ASKING))
    ask = left[np.argsort(-p_yes[left], kind="stable")][:_VERIFIED_TOGETHER].astype(np.int64)
    at.questions.add(ask, cluster=Plan.tag(0), stream=Stream.SEARCH, inclusion=1.0)
    return not len(ask)


def believable_labels(at: StepInput, label: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """The labels without each yes that leaves its mask less likely to be good than promised, in place.

    This concerns noisy verdicts only: the yes of a worker who lets one bad mask in ten pass says little about
    a mask that is almost surely bad. (n,) int8 in, (n,) int8 out.
    """
    yes = np.flatnonzero(label > 0)
    if at.noise.exact or not len(yes):
        return label
    p_yes, _ = at.verifier(at.plan.after_all)
    prior = np.clip(rogan_gladen(p_yes[yes], at.noise), 0.01, 0.99)
    good = prior * at.noise.sensitivity
    bad = (1.0 - prior) * (1.0 - at.noise.specificity)
    label[yes[good < at.purity * (good + bad)]] = 0
    return label


def audit(at: StepInput, accepted: Accepted, rows: DecisionRows) -> bool:
    """Ask about a uniform sample of the delivered set; True when the audit is finished.

    A finished audit adds a row to ``rows``: its interval is what gets published.
    """
    p_yes, known = at.verifier(accepted.phase + 1)
    members = accepted.members[~known[accepted.members]]
    planned = min(at.plan.audit, len(members))
    if not planned:
        return True
    draw = members[smallest(at.random(accepted.phase, salt=1)[members], planned)]
    verdict = at.verdicts(accepted.phase, Stream.AUDIT)[draw]
    if np.isnan(verdict).any():
        share = planned / len(members)
        at.ask_draw(draw, verdict, p_yes, phase=accepted.phase, stream=Stream.AUDIT, inclusion=share)
        return False
    yes = int(verdict.sum())
    if at.noise.exact:
        low, high = hypergeometric_interval(yes, planned, len(members), alpha=0.025)
    else:
        low, high = (rogan_gladen(b, at.noise) for b in clopper_pearson(yes, planned, alpha=0.025))
    rows.add(
        Plan.tag(accepted.phase),
        Action.ACCEPT,
        asked=planned,
        yes=yes,
        test=AUDIT,
        bounds=(float(low), float(high), 0.95),
    )
    return True


def reject_tail(at: StepInput, rows: DecisionRows, label: npt.NDArray[np.int8], decision: Ints) -> None:
    """Reject, in place, the largest group of worst-predicted masks that the answers speak against.

    Nothing is promised about rejected masks: they are only not shown to annotators. The answers inside the
    tail come mostly from its better end, where more is asked; so their share of yes errs on the safe side.

    Parameters
    ----------
    label : (n,) int8, decision : (n,) int64, as in ``PolicyStep``; both are changed
    """
    p_yes, known = at.verifier(at.plan.after_all)
    prior = rogan_gladen(p_yes, at.noise)
    learnt = at.log.take(at.log.stream == Stream.SEARCH)
    items, yes = final_verdicts(learnt)
    for bar in _TAILS:
        tail = (prior <= bar) & ~known & (label == 0)
        if not tail.any() or float(prior[tail].mean()) > _REJECT / 2.0:
            continue
        inside = prior[items] <= bar
        asked, said = int(inside.sum()), int((yes[inside] > 0.5).sum())
        bounds = [float(rogan_gladen(b, at.noise)) for b in clopper_pearson(said, asked, alpha=0.05)]
        if asked and bounds[1] <= _REJECT:
            row = rows.add(
                Plan.tag(at.plan.after_all),
                Action.REJECT,
                asked=asked,
                yes=said,
                test="verifier, without a promise",
                bounds=(bounds[0], bounds[1], 0.9),
            )
            label[tail], decision[tail] = -1, row
            return
