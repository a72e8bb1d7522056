"""Answers of many workers -> verdicts, skills, and what to ask again (Dawid & Skene 1979).

The model is Dawid and Skene's: worker w says yes to a good mask with probability se_w (sensitivity) and no
to a bad one with sp_w (specificity), independently. EM over soft truths; gold items have their truth fixed;
the detector's own probability is each item's prior. Workers with few answers are smoothed towards the crowd,
or all share one accuracy (the one-coin model) where even that asks too much of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = ["Answers", "CrowdModel", "ask_again", "fit_crowd", "next_workers", "verdicts"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """a answers of workers, columns of equal length, in the order in which they were given.

    Attributes
    ----------
    item : (a,) int64, question (row of a pool, or any number); worker : (a,) int64
    yes : (a,) float64, 1 yes, 0 no, NaN unsure
    seconds : (a,) float64, time spent, NaN = not known
    """

    item: npt.NDArray[np.int64]
    worker: npt.NDArray[np.int64]
    yes: Floats
    seconds: Floats

    def __post_init__(self) -> None:
        lengths = {len(self.item), len(self.worker), len(self.yes), len(self.seconds)}
        if len(lengths) > 1:
            raise ValueError(f"columns of answers have different lengths: {sorted(lengths)}")
        told = self.yes[~np.isnan(self.yes)]
        if not np.isin(told, (0.0, 1.0)).all():
            raise ValueError("an answer must be 1 (yes), 0 (no) or NaN (unsure)")

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Answers:
        return Answers(self.item[rows], self.worker[rows], self.yes[rows], self.seconds[rows])


@dataclass(frozen=True, slots=True, eq=False)
class CrowdModel:
    """What the answers say about items and workers.

    Attributes
    ----------
    item : (u,) int64 items with an answer, sorted; p_yes : (u,) float64, probability that the mask is good
    worker : (w,) int64 sorted; sensitivity, specificity : (w,) float64
    iterations : EM steps taken; converged : the last step changed no probability by more than the tolerance
    one_coin : sensitivity and specificity of a worker are the same number
    """

    item: npt.NDArray[np.int64]
    p_yes: Floats
    worker: npt.NDArray[np.int64]
    sensitivity: Floats
    specificity: Floats
    iterations: int
    converged: bool
    one_coin: bool

    @property
    def log_odds(self) -> Floats:
        """(u,) float64 log-odds of yes."""
        result: Floats = special.logit(np.clip(self.p_yes, 1e-12, 1 - 1e-12))
        return result


def fit_crowd(
    answers: Answers,
    *,
    prior: npt.ArrayLike | None = None,
    gold: npt.ArrayLike | None = None,
    one_coin: bool | None = None,
    pseudo: tuple[float, float] = (8.0, 2.0),
    iterations: int = 200,
    tolerance: float = 1e-6,
) -> CrowdModel:
    """Fit Dawid and Skene's model by EM.

    Parameters
    ----------
    answers : unsure answers are ignored
    prior : (max item + 1,) probability in (0, 1) that each item is good, from the detector; None = the share
    of
        good items is estimated too, one for all, starting from majority votes
    gold : (max item + 1,) float, 1 good, 0 bad, NaN not known; fixes the truth of those items
    one_coin : one accuracy per worker; None = where workers have fewer than 10 answers in the median
    pseudo : right and wrong answers every worker is credited with per class, so that few answers do not make
    a
        perfect or useless worker
    iterations, tolerance : EM stops after so many steps or when no probability moved by more

    Returns
    -------
    CrowdModel. Time O(iterations · a).

    Raises
    ------
    ValueError : a prior is not within (0, 1), or prior or gold do not cover all items
    """
    told = ~np.isnan(answers.yes)
    item, at = np.unique(answers.item, return_inverse=True)
    worker, by = np.unique(answers.worker, return_inverse=True)
    at, by, yes = at[told], by[told], answers.yes[told]
    u, w = len(item), len(worker)
    truth = column_of(gold, item, "gold", np.nan)
    fixed = ~np.isnan(truth)
    shared_prior = prior is None
    start = np.full(u, 0.5) if shared_prior else column_of(prior, item, "prior", 0.5)
    if u and not ((start > 0) & (start < 1)).all():
        raise ValueError("a prior is not strictly between 0 and 1: clip it to what is believed possible")
    if one_coin is None:
        one_coin = bool(w) and float(np.median(np.bincount(by, minlength=w))) < 10
    log_prior = special.logit(start)
    # E step zero: majority votes, tempered by the prior; assumes the average worker is better than chance
    votes = np.bincount(at, weights=2 * yes - 1, minlength=u)
    p = special.expit(log_prior + 1.5 * votes)
    p[fixed] = truth[fixed]
    sensitivity = specificity = np.full(w, pseudo[0] / (pseudo[0] + pseudo[1]))
    step, converged = 0, not u
    while step < iterations and not converged:
        step += 1
        good = p[at]
        hits = np.bincount(by, weights=good * yes, minlength=w)
        hits_bad = np.bincount(by, weights=(1 - good) * (1 - yes), minlength=w)
        seen = np.bincount(by, weights=good, minlength=w)
        seen_bad = np.bincount(by, weights=1 - good, minlength=w)
        if one_coin:
            both = (hits + hits_bad + pseudo[0]) / (seen + seen_bad + sum(pseudo))
            sensitivity = specificity = both
        else:
            sensitivity = (hits + pseudo[0]) / (seen + sum(pseudo))
            specificity = (hits_bad + pseudo[0]) / (seen_bad + sum(pseudo))
        if shared_prior:
            log_prior = np.full(u, special.logit((p.sum() + 1.0) / (u + 2.0)))
        new = special.expit(log_prior + _evidence(at, by, yes, sensitivity, specificity, u))
        new[fixed] = truth[fixed]
        converged = bool(np.abs(new - p).max(initial=0.0) <= tolerance)
        p = new
    return CrowdModel(item, p, worker, sensitivity, specificity, step, converged, one_coin)


def column_of(values: npt.ArrayLike | None, item: npt.NDArray[np.int64], name: str, missing: float) -> Floats:
    if values is None:
        return np.full(len(item), missing)
    column = np.asarray(values, np.float64)
    if len(item) and (item[0] < 0 or item[-1] >= len(column)):
        raise ValueError(f"{name} has {len(column)} entries but answers name item {int(item[-1])}")
    return column[item]


def _evidence(
    at: npt.NDArray[np.intp],
    by: npt.NDArray[np.intp],
    yes: Floats,
    sensitivity: Floats,
    specificity: Floats,
    u: int,
) -> Floats:
    """(u,) sum of the log likelihood ratios of all answers to each item."""
    ratio_yes = np.log(sensitivity) - np.log1p(-specificity)
    ratio_no = np.log1p(-sensitivity) - np.log(specificity)
    ratio = np.where(yes > 0, ratio_yes[by], ratio_no[by])
    # a bincount of nothing is a column of integers
    return np.bincount(at, weights=ratio, minlength=u).astype(np.float64)


def verdicts(
    answers: Answers, *, prior: npt.ArrayLike | None = None, gold: npt.ArrayLike | None = None
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Items with an answer, sorted, and the probability of yes for each: what goes into an ``AnswerLog``."""
    model = fit_crowd(answers, prior=prior, gold=gold)
    return model.item, model.p_yes


def next_workers(
    answers: Answers, model: CrowdModel, *, delta: float = 0.05, cap: int = 5
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Adaptive redundancy: which items need one more worker, and which need an expert.

    An item is settled once its log-odds are beyond ln((1-delta)/delta) either way. An unsettled one is shown
    to another worker until ``cap`` answers (unsure ones count), then it goes to the expert queue.

    Returns
    -------
    ask, expert : int64 items, least certain first
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
) -> tuple[Answers, npt.NDArray[np.int64]]:
    """Throw away the answers of some workers; only what has thereby become open is asked again.

    Parameters
    ----------
    discarded : worker numbers; prior, gold, delta, cap : as for ``fit_crowd`` and ``next_workers``

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
    is_gold = ~np.isnan(column_of(gold, touched, "gold", np.nan))
    return kept, np.setdiff1d(touched[~is_gold], np.concatenate([settled, expert]))
