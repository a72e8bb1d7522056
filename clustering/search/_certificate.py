"""The attempts of the certified policy: learn, draw a fresh sample, test the candidate sets; then audit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from clustering.answers import AUDIT, Action, Stream
from clustering.arrays import Ints
from clustering.evidence import clopper_pearson, hypergeometric_interval, rogan_gladen
from clustering.search._harvest import harvest_order
from clustering.search._parts import DecisionRows
from clustering.search._plan import (
    ATTEMPTS,
    PATIENCE,
    SINGLE_PART,
    UNIFORM,
    WORTH_AN_ATTEMPT,
    calibration_phase,
    search_phase,
)
from clustering.search._sets import NestedSets, SetTest, nest_sets, test_sets
from clustering.search._step import StepInput, smallest

__all__ = ["Accepted", "audit", "certify"]

_VETO = 0.02
"""The audit takes a certificate back if a set that just keeps the promise would look that bad with at most
this probability."""


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """A certified set.

    Attributes
    ----------
    members : (k,) int64 instances, those of the sample included
    phase : the calibration that certified it
    test : outcome of the test
    sampled : int64 instances of the set that the test read
    """

    members: Ints
    phase: int
    test: SetTest
    sampled: Ints


def certify(at: StepInput) -> tuple[Accepted | None, NestedSets | None, bool]:
    """Walk through the attempts as far as the answers reach; add the next questions to ``at.questions``.

    Returns
    -------
    accepted : the set certified so far
    tested : the sets that are being tested now, if any
    done : no attempt needs further answers
    """
    accepted: Accepted | None = None
    part = 1.0 if at.terms.exact else 1.0 - SINGLE_PART
    for number, share in enumerate(ATTEMPTS):
        if not _learn(at, number, accepted):
            return accepted, None, False
        phase = calibration_phase(number)
        alpha = at.terms.alpha * part * share
        now = at.estimate(phase)
        sets = nest_sets(now.p_good, ~now.known, terms=at.terms, alpha=alpha, most=at.plan.calibrate)
        if sets is None or not sets.stages:
            continue
        if number + 1 < len(ATTEMPTS) and sets.likely < PATIENCE * sets.hoped:
            continue
        if accepted and sets.likely < WORTH_AN_ATTEMPT * _unseen(accepted):
            continue
        rank = smallest(at.random(phase)[sets.order], sets.stages[-1])
        draw = sets.order[rank]
        said = at.answers(phase, Stream.CALIBRATION)[draw]
        test = test_sets(sets, rank, said, terms=at.terms, alpha=alpha)
        if test.certified - test.asked > (_unseen(accepted) if accepted else 0):
            members = sets.order[: test.certified]
            read = draw[: test.read]
            accepted = Accepted(members, phase, test, read[np.isin(read, members)])
        if not test.over:
            wanted = draw[: test.wanted]
            inclusion = test.wanted / len(sets.order)
            at.ask(
                wanted,
                ~np.isnan(said[: test.wanted]),
                now.p_good,
                phase=phase,
                stream=Stream.CALIBRATION,
                inclusion=inclusion,
            )
            return accepted, sets, False
    return accepted, None, True


def _unseen(accepted: Accepted) -> int:
    return accepted.test.certified - accepted.test.asked


def _learn(at: StepInput, number: int, accepted: Accepted | None) -> bool:
    """Ask what an attempt wants to learn from; True when all of it is answered."""
    return _search(at) if number == 0 else _harvest_some(at, number, accepted)


def _search(at: StepInput) -> bool:
    """The search batches of the first attempt.

    Answers carried over from an earlier round, lessons and other answers there already are teach as much as
    new ones, so they take the place of some.
    """
    log = at.log
    spare = len(np.unique(log.item[log.phase < 0]))
    spare += 0 if at.project.lessons is None else len(at.project.lessons)
    for batch, whole in enumerate(at.plan.search):
        quota, spare = max(0, whole - spare), max(0, spare - whole)
        phase = search_phase(0, batch)
        answered = np.unique(log.item[(log.phase == phase) & (log.stream == Stream.SEARCH)])
        if len(answered) >= quota:
            continue
        now = at.estimate(phase)
        # partly uniform, the rest where the verifier knows least
        weight = UNIFORM + (1.0 - UNIFORM) * 4.0 * now.p_good * (1.0 - now.p_good)
        key = -np.log1p(-at.random(phase)) / weight
        key[now.known] = np.inf
        quota = min(quota, int((~now.known).sum()))
        draw = smallest(key, quota)
        if np.isin(draw, answered).all():
            continue
        # order sampling (Rosén 1997) with exponential keys: an instance is drawn if and only if its key is
        # below the first key that was left out
        bar = np.partition(key, quota)[quota] if quota < len(key) else np.inf
        inclusion = np.maximum(-np.expm1(-weight[draw] * min(bar, 1e6)), 1e-12)
        at.ask(
            draw,
            np.isin(draw, answered),
            now.p_good,
            phase=phase,
            stream=Stream.SEARCH,
            inclusion=inclusion,
        )
        return False
    return True


def _harvest_some(at: StepInput, number: int, accepted: Accepted | None) -> bool:
    """What is harvested before a further attempt: the best masks outside of the certified set."""
    phase = search_phase(number)
    log = at.log
    answered = np.unique(log.item[(log.phase == phase) & (log.stream == Stream.HARVEST)])
    now = at.estimate(phase)
    outside = ~now.known
    if accepted is not None:
        outside[accepted.members] = False
    order = harvest_order(at, now.p_good, outside)[: at.plan.learn]
    done = np.isin(order, answered)
    if done.all():
        return True
    at.ask(order, done, now.p_good, phase=phase, stream=Stream.HARVEST, inclusion=1.0)
    return False


def audit(at: StepInput, accepted: Accepted, rows: DecisionRows) -> tuple[bool, bool]:
    """Ask about a uniform sample of the masks that the certificate covers and nobody has seen.

    A finished audit adds a row to ``rows``: its interval is what gets published.

    Returns
    -------
    done : the audit is finished
    holds : it does not take the certificate back
    """
    others = (at.log.stream != Stream.AUDIT) & (at.log.stream != Stream.CARRIED)
    seen = np.zeros(len(at.project), bool)
    seen[at.log.item[others]] = True
    # what is asked about an audited mask later, of somebody else, does not take it out of the sample
    audited = (at.log.stream == Stream.AUDIT) & (at.log.phase == accepted.phase)
    seen[at.log.item[audited]] = False
    members = accepted.members[~seen[accepted.members]]
    planned = min(at.plan.audit, len(members))
    if not planned:
        return True, True
    draw = members[smallest(at.random(accepted.phase, salt=1)[members], planned)]
    said = at.answers(accepted.phase, Stream.AUDIT)[draw]
    if np.isnan(said).any():
        now = at.estimate(accepted.phase)
        at.ask(
            draw,
            ~np.isnan(said),
            now.p_good,
            phase=accepted.phase,
            stream=Stream.AUDIT,
            inclusion=planned / len(members),
        )
        return False, True
    yes = int(said.sum())
    low, high, worst = _audit_bounds(at, yes, planned, len(members))
    rows.add(
        Action.ACCEPT,
        phase=accepted.phase,
        asked=planned,
        yes=yes,
        test=AUDIT,
        bounds=(low, high, 0.95),
    )
    return True, worst > _VETO


def _audit_bounds(at: StepInput, yes: int, asked: int, size: int) -> tuple[float, float, float]:
    """Interval of the purity, and how likely a set that just keeps the promise looks that bad."""
    terms = at.terms
    if terms.exact:
        low, high = hypergeometric_interval(yes, asked, size, alpha=0.025)
        good = int(np.ceil(terms.purity * size))
        return float(low), float(high), float(stats.hypergeom.cdf(yes, size, good, asked))
    low, high = (rogan_gladen(b, terms.plan_noise) for b in clopper_pearson(yes, asked, alpha=0.025))
    expected = float(terms.plan_noise.observed(terms.purity))
    return float(low), float(high), float(stats.binom.cdf(yes, asked, expected))
