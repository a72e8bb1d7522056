"""Who is asked next: another worker, an expert, or nobody.

The idea of adaptive redundancy: an item gets another worker only while its verdict is uncertain, as in a
sequential test (Wald 1945).
"""

from __future__ import annotations

import numpy as np

from clustering.arrays import Ints
from clustering.crowd.model import CrowdModel
from clustering.crowd.worker_answers import Answers

__all__ = ["next_workers"]


def next_workers(
    answers: Answers, model: CrowdModel, *, delta: float = 0.05, cap: int = 5
) -> tuple[Ints, Ints]:
    """Which items need one more worker, and which need an expert.

    An item is settled once its log-odds are beyond ln((1-delta)/delta) either way. An open item is shown to
    another worker until it has ``cap`` answers (unsure ones count), then it goes to the expert queue.

    Parameters
    ----------
    answers : those that ``model`` was fitted to
    delta : probability of a wrong verdict that is accepted, strictly between 0 and 0.5
    cap : most answers per item

    Returns
    -------
    ask, expert : int64 items, least certain first

    Raises
    ------
    ValueError : delta is out of its range
    """
    if not 0.0 < delta < 0.5:
        raise ValueError(f"delta is {delta}: it must lie strictly between 0 and 0.5")
    certainty = np.abs(model.log_odds)
    unsettled = certainty < np.log((1 - delta) / delta)
    count = np.bincount(np.searchsorted(model.item, answers.item), minlength=len(model.item))
    order = np.argsort(certainty, kind="stable")
    ask, expert = unsettled & (count < cap), unsettled & (count >= cap)
    return model.item[order[ask[order]]], model.item[order[expert[order]]]
