"""Per-worker figures behind ``clustering.crowd.worker_report.worker_report``, one small function each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Bools, Floats, Ints

__all__ = [
    "beta_interval",
    "longest_run",
    "low_accuracy",
    "medians",
    "per_worker",
    "ratio_of",
    "repeat_agreement",
]

_PRIOR_WEIGHT = 5.0
"""Answers that the prior of an accuracy is worth in ``low_accuracy``."""


def per_worker(by: npt.NDArray[np.intp], values: npt.NDArray[np.generic], workers: int) -> Floats:
    """(w,) float64: sums of (a,) ``values`` over each worker's answers."""
    return np.bincount(by, weights=values.astype(np.float64), minlength=workers).astype(np.float64)


def beta_interval(right: Floats, asked: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """(w,) lower and upper end of the credible interval of an accuracy: Beta(1 + right, 1 + wrong)."""
    tail = (1.0 - level) / 2.0
    a, b = 1.0 + right, 1.0 + asked - right
    return special.betaincinv(a, b, tail), special.betaincinv(a, b, 1.0 - tail)


def low_accuracy(right: Floats, asked: Floats, least: float, certainty: float) -> Bools:
    """(w,) bool: where P(accuracy < least) > certainty, after ``right`` of ``asked`` right answers.

    The prior is Beta with mean ``least`` and the weight of five answers. Under a flat prior the first wrong
    answer alone would suffice (P(accuracy < 0.8) = 0.96), and reports are read after every answer.

    In a simulation of 4,000 workers, judged after each of 40 gold answers on both classes, 1.4 % of those who
    are right 95 times in 100 were suspended at some time (under a flat prior 13 %), and 6.5 % of those who
    are right 90 times in 100 (32 %). Of workers who guess, 95 % were suspended by the 20th answer.
    """
    a, b = _PRIOR_WEIGHT * least, _PRIOR_WEIGHT * (1.0 - least)
    return np.asarray(special.betainc(a + right, b + asked - right, least) > certainty)


def repeat_agreement(
    item: Ints, by: npt.NDArray[np.intp], yes: Floats, workers: int, hidden: Bools
) -> tuple[Floats, Floats]:
    """How often workers answer hidden repeats the same again.

    A pair is two consecutive answers of one worker to one item, the later one to a hidden repeat.

    Parameters
    ----------
    item, by, yes, hidden : (a,) item, row of the worker, answer, and whether the answer is to a hidden repeat

    Returns
    -------
    pairs, agreeing : (w,) float64, number of pairs and of those with equal answers
    """
    order = np.lexsort((np.arange(len(item)), item, by))
    pair = (item[order][1:] == item[order][:-1]) & (by[order][1:] == by[order][:-1]) & hidden[order][1:]
    agrees = pair & (yes[order][1:] == yes[order][:-1])
    owner = by[order][1:]
    return per_worker(owner, pair, workers), per_worker(owner, agrees, workers)


def longest_run(
    by: npt.NDArray[np.intp], yes: Floats, log_chance: Floats, workers: int
) -> tuple[Ints, Floats]:
    """The least likely run of equal answers of each worker: a sign of answering without looking.

    Parameters
    ----------
    by, yes : (a,) row of the worker and answer, in the order in which they were given
    log_chance : (a,) log probability of each answer for somebody who looks at the masks

    Returns
    -------
    length : (w,) int64 of that run
    surprise : (w,) float64, its negative log probability
    """
    length, surprise = np.zeros(workers, np.int64), np.zeros(workers)
    if not len(by):
        return length, surprise
    order = np.argsort(by, kind="stable")
    owner, answer = by[order], yes[order]
    begins = np.flatnonzero(np.concatenate([[True], (owner[1:] != owner[:-1]) | (answer[1:] != answer[:-1])]))
    run_surprise = -np.add.reduceat(log_chance[order], begins)
    run_length = np.diff(np.append(begins, len(order)))
    ranked = np.argsort(run_surprise, kind="stable")
    # later assignments win, so that each worker keeps the most surprising run
    surprise[owner[begins[ranked]]] = run_surprise[ranked]
    length[owner[begins[ranked]]] = run_length[ranked]
    return length, surprise


def ratio_of(part: Floats, whole: Floats) -> Floats:
    """(w,) part / whole, NaN where whole is 0."""
    result = np.full(len(whole), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def medians(by: npt.NDArray[np.intp], values: Floats, workers: int) -> Floats:
    """(w,) median of each worker's values, NaN for a worker without any."""
    result = np.full(workers, np.nan)
    order = np.lexsort((values, by))
    owner = by[order]
    first = np.searchsorted(owner, np.arange(workers))
    last = np.searchsorted(owner, np.arange(workers), side="right")
    some = last > first
    low, high = order[(first + last - 1)[some] // 2], order[(first + last)[some] // 2]
    result[some] = 0.5 * (values[low] + values[high])
    return result
