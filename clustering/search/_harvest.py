"""Harvest: masks that no certificate covers are asked about one by one, best first, as long as it pays.

See ``_worth`` for how long it pays.
"""

from __future__ import annotations

import numpy as np

from clustering.answers import Forecast, Stream
from clustering.arrays import Bools, Floats, Ints
from clustering.search._plan import HARVEST_PHASE
from clustering.search._step import StepInput
from clustering.search._worth import least_worth, worth_asking

__all__ = ["forecast", "harvest", "harvest_bar", "harvest_order"]


def harvest_bar(at: StepInput) -> float:
    """The least probability of being good at which asking about a mask pays."""
    costs, noise = at.terms.costs, at.terms.plan_noise
    bar = least_worth(costs)
    if at.terms.exact:
        return bar
    # where people err, the yes of two must make the mask as likely to be good as promised
    gain = (noise.sensitivity / max(1.0 - noise.specificity, 1e-6)) ** 2
    odds = at.terms.purity / (1.0 - at.terms.purity) / gain
    return max(bar, odds / (1.0 + odds))


def harvest_order(at: StepInput, p_good: Floats, candidates: Bools) -> Ints:
    """Candidates that are worth asking about, best first."""
    return worth_asking(p_good, candidates, np.zeros(0), bar=harvest_bar(at), tail=False)


def harvest(at: StepInput, covered: Bools, again: Ints) -> bool:
    """Ask about the best masks left; True when nothing is left that pays.

    Parameters
    ----------
    covered : (n,) bool, masks that a certificate covers
    again : masks that need one more yes, asked about once no other is left
    """
    left, p_good = _left(at, covered)
    if not len(left):
        left = again
    if not len(left):
        return True
    at.ask(
        left[: at.questions.room],
        np.zeros(min(len(left), at.questions.room), bool),
        p_good,
        phase=HARVEST_PHASE,
        stream=Stream.HARVEST,
        inclusion=1.0,
    )
    return False


def _left(at: StepInput, covered: Bools) -> tuple[Ints, Floats]:
    """Masks still worth asking about, best first, and (n,) how likely each mask is good."""
    now = at.estimate(None)
    mine = (at.log.phase == HARVEST_PHASE) & (at.log.stream == Stream.HARVEST)
    open_ = ~(at.asked if at.terms.exact else _tried(at)) & ~covered
    said, exact = at.said[mine], at.terms.exact
    return worth_asking(now.p_good, open_, said, bar=harvest_bar(at), tail=exact), now.p_good


def _tried(at: StepInput) -> Bools:
    """(n,) bool, masks with an answer that may speak for them where people err.

    Answers of the search and of earlier certificates may not: the order in which the yes of people are tested
    was learnt from them.
    """
    rows = (at.log.stream != Stream.SEARCH) & (at.log.stream != Stream.CARRIED) & (at.log.phase >= 0)
    found = np.zeros(len(at.project), bool)
    found[at.log.item[rows]] = True
    return found


def forecast(at: StepInput, covered: Bools, coming: Ints) -> Forecast:
    """What further answers are expected to bring.

    Parameters
    ----------
    covered : (n,) bool, masks that a certificate covers
    coming : masks that a certificate is expected to cover soon
    """
    left, p_good = _left(at, covered)
    soon = coming[~at.asked[coming] & ~covered[coming]]
    one_by_one = np.setdiff1d(left, soon)
    questions = max(len(one_by_one), len(at.questions))
    masks = round(float(p_good[one_by_one].sum() + p_good[soon].sum()))
    costs = at.terms.costs
    return Forecast(questions, questions * costs.mask, masks, masks * costs.drawn_mask)
