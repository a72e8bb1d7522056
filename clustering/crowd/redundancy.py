"""Who is asked next: another worker, an expert, or nobody.

The idea of adaptive redundancy: an item gets another worker only while its verdict is uncertain, as in a
sequential test (Wald 1945).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.arrays import Ints
from clustering.crowd.model import CrowdModel, fit_crowd
from clustering.crowd.worker_answers import Answers, values_of_items

__all__ = ["ask_again", "next_workers"]


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


def ask_again(
    answers: Answers,
    discarded: npt.ArrayLike,
    *,
    prior: npt.ArrayLike | None = None,
    gold: npt.ArrayLike | None = None,
    delta: float = 0.05,
    cap: int = 5,
) -> tuple[Answers, Ints]:
    """Throw away the answers of some workers; only what has thereby become open is asked again.

    Parameters
    ----------
    discarded : numbers of the workers whose answers are thrown away
    prior, gold : as for ``fit_crowd``
    delta, cap : as for ``next_workers``

    Returns
    -------
    kept : the other answers
    items : sorted int64, items that a discarded worker answered and that the kept answers do not settle
        (those without any kept answer included), gold items excepted
    """
    gone = np.isin(answers.worker, np.asarray(discarded, np.int64))
    kept = answers.take(~gone)
    touched = np.unique(answers.item[gone])
    model = fit_crowd(kept, prior=prior, gold=gold)
    ask, expert = next_workers(kept, model, delta=delta, cap=cap)
    settled = np.setdiff1d(model.item, np.concatenate([ask, expert]))
    is_gold = ~np.isnan(values_of_items(gold, touched, name="gold", missing=np.nan))
    return kept, np.setdiff1d(touched[~is_gold], np.concatenate([settled, expert]))
