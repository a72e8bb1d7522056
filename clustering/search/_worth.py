"""Which masks are worth a question each, best first: the stop rule of every policy that asks one by one.

A mask that is good with probability p saves the time of drawing it, p times 80 s; looking at it on a sheet
costs half a second. So asking pays down to masks of which about one in a hundred and fifty is good.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.arrays import Bools, Floats, Ints
from clustering.costs import Costs

__all__ = ["least_worth", "worth_asking"]

_RECENT = 100
"""Answers that tell how much asking still brings."""
_MODEL = 20.0
"""Answers that the estimate itself counts for beside them."""
_TAIL_STEPS = 20
"""Masks below the bar are asked about some at a time: this part of the answers so far."""


def least_worth(costs: Costs) -> float:
    """The least probability of being good at which asking about a mask takes less time than it saves."""
    return costs.mask / costs.drawn_mask if costs.drawn_mask > 0 else 1.0


def worth_asking(
    p_good: Floats,
    candidates: Bools,
    said: npt.NDArray[np.floating],
    *,
    bar: float,
    tail: bool = True,
) -> Ints:
    """Candidates worth asking about, best first; none once the last answers brought too little.

    Candidates below the bar come last, and only some at a time: a model that learnt from the better masks
    knows little about the tail, so what the last answers brought says whether more of it are asked about.

    Parameters
    ----------
    p_good : (n,) estimated probability of being good
    candidates : (n,) bool
    said : (m,) 1 yes, 0 no: answers to such questions so far, in their order
    bar : least probability of being good at which asking pays
    tail : False leaves candidates below the bar alone; for people whose yes may be wrong, as it mostly is in
        the tail
    """
    found = np.flatnonzero(candidates)
    order = found[np.argsort(-p_good[found], kind="stable")].astype(np.int64)
    above = int((p_good[order] >= bar).sum())
    if len(order) and len(said) >= _RECENT:
        # in the tail the last answers tell more than the estimate
        brought = float(said[-_RECENT:].sum()) + _MODEL * float(p_good[order[0]])
        if brought / (_RECENT + _MODEL) < bar:
            return order[:0]
        if tail and not above:
            return order[: max(_RECENT, len(said) // _TAIL_STEPS)]
    return order[:above]
