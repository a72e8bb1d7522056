"""Answers of many workers -> verdicts, skills, and what to ask again (algorithms §6.6).

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

from clustering._worker_report import beta_interval, longest_run, low_accuracy, per_worker, repeat_agreement

__all__ = [
    "Answers",
    "CrowdModel",
    "WorkerReport",
    "ask_again",
    "fit_crowd",
    "next_workers",
    "verdicts",
    "worker_report",
]

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
    truth = _column(gold, item, "gold", np.nan)
    fixed = ~np.isnan(truth)
    shared_prior = prior is None
    start = np.full(u, 0.5) if shared_prior else _column(prior, item, "prior", 0.5)
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


def _column(values: npt.ArrayLike | None, item: npt.NDArray[np.int64], name: str, missing: float) -> Floats:
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


@dataclass(frozen=True, slots=True, eq=False)
class WorkerReport:
    """What is known about w workers; every share comes with the number it rests on.

    Attributes
    ----------
    worker : (w,) int64, sorted
    answers, unsure : (w,) int64
    seconds : (w,) float64 median time per answer, NaN = not known; hurried : (w,) share below the time floor
    agreement : (w,) share of answers that agree with what all others and the detector make of the item
    gold_good, gold_bad : (w,) int64 answers to gold items of either class
    gold_yes, gold_no : (w,) int64 right answers among them: yes to good ones, no to bad ones
    sensitivity, specificity : (w,) accuracy on either class, estimated from all answers
    sensitivity_interval, specificity_interval : (w, 2) 95 % credible intervals, from gold alone
    repeats : (w,) int64 hidden repeats; consistency : (w,) share answered the same again, NaN without repeats
    longest_run : (w,) int64 equal answers in a row, of the least likely run; run_surprise : (w,) float64 nats
    fails_gold, too_fast, inconsistent, straight_lining : (w,) bool, evidence for each reason
    suspended : (w,) bool, any of them
    """

    worker: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    unsure: npt.NDArray[np.int64]
    seconds: Floats
    hurried: Floats
    agreement: Floats
    gold_good: npt.NDArray[np.int64]
    gold_bad: npt.NDArray[np.int64]
    gold_yes: npt.NDArray[np.int64]
    gold_no: npt.NDArray[np.int64]
    sensitivity: Floats
    specificity: Floats
    sensitivity_interval: Floats
    specificity_interval: Floats
    repeats: npt.NDArray[np.int64]
    consistency: Floats
    longest_run: npt.NDArray[np.int64]
    run_surprise: Floats
    fails_gold: npt.NDArray[np.bool_]
    too_fast: npt.NDArray[np.bool_]
    inconsistent: npt.NDArray[np.bool_]
    straight_lining: npt.NDArray[np.bool_]
    suspended: npt.NDArray[np.bool_]


def worker_report(
    answers: Answers,
    *,
    prior: npt.ArrayLike | None = None,
    gold: npt.ArrayLike | None = None,
    hidden: npt.NDArray[np.bool_] | None = None,
    floor_s: float = 0.6,
    least_accuracy: float = 0.8,
    certainty: float = 0.9,
) -> WorkerReport:
    """Judge every worker by evidence: gold, speed, repeats, runs of equal answers.

    Parameters
    ----------
    prior, gold : as for ``fit_crowd``
    hidden : (a,) answers to hidden repeats, drawn at random; None = every second answer of a worker to an
        item is one. Questions asked again because they were open are none: they come back where somebody
        erred, and would make careful workers look inconsistent.
    floor_s : nobody looks at a mask in less; a worker with P(share of hurried answers > 0.2) > certainty is
        suspended
    least_accuracy, certainty : suspended where P(accuracy < least_accuracy) > certainty on the gold of either
        class (who says yes to everything is perfect on one) or of both together, or the same for consistency
        on repeats

    Returns
    -------
    WorkerReport. Time O(a log a) beside the fit.
    """
    model = fit_crowd(answers, prior=prior, gold=gold)
    w = len(model.worker)
    by_all = np.searchsorted(model.worker, answers.worker)
    told = ~np.isnan(answers.yes)
    is_repeat = np.ones(len(answers), bool) if hidden is None else hidden
    by, yes, item = by_all[told], answers.yes[told], answers.item[told]
    at = np.searchsorted(model.item, item)
    truth = _column(gold, model.item, "gold", np.nan)[at]
    good, bad = truth == 1.0, truth == 0.0
    # what all others say about the item, without this answer
    ratio = np.where(
        yes > 0,
        np.log(model.sensitivity[by]) - np.log1p(-model.specificity[by]),
        np.log1p(-model.sensitivity[by]) - np.log(model.specificity[by]),
    )
    others = np.where(np.isnan(truth), model.log_odds[at] - ratio, np.where(good, 27.0, -27.0))
    # somebody careful is right nine times in ten
    chance = special.expit(others)
    chance_yes = 0.9 * chance + 0.1 * (1.0 - chance)
    log_chance = np.log(np.where(yes > 0, chance_yes, 1.0 - chance_yes))
    run, surprise = longest_run(by, yes, log_chance, w)
    asked, told_count = per_worker(by_all, np.ones(len(answers)), w), per_worker(by, np.ones(len(by)), w)
    gold_good, gold_bad = per_worker(by, good, w), per_worker(by, bad, w)
    hits, hits_bad = per_worker(by, good & (yes > 0), w), per_worker(by, bad & (yes == 0), w)
    repeats, same = repeat_agreement(item, by, yes, w, is_repeat[told])
    timed = ~np.isnan(answers.seconds)
    clocked = per_worker(by_all[timed], np.ones(int(timed.sum())), w)
    fast = per_worker(by_all[timed], answers.seconds[timed] < floor_s, w)
    agree = per_worker(by, (others > 0) == (yes > 0), w)
    fails_gold = low_accuracy(hits, gold_good, least_accuracy, certainty)
    fails_gold |= low_accuracy(hits_bad, gold_bad, least_accuracy, certainty)
    fails_gold |= low_accuracy(hits + hits_bad, gold_good + gold_bad, least_accuracy, certainty)
    too_fast = low_accuracy(clocked - fast, clocked, 0.8, certainty)
    inconsistent = low_accuracy(same, repeats, least_accuracy, certainty)
    # once in a thousand careful workers, whatever the number of runs they had a chance to produce
    straight = surprise > np.log(1000.0 * np.maximum(told_count, 1.0)) + run * 0.25
    return WorkerReport(
        worker=model.worker,
        answers=asked.astype(np.int64),
        unsure=(asked - told_count).astype(np.int64),
        seconds=_medians(by_all[timed], answers.seconds[timed], w),
        hurried=_ratio(fast, clocked),
        agreement=_ratio(agree, told_count),
        gold_good=gold_good.astype(np.int64),
        gold_bad=gold_bad.astype(np.int64),
        gold_yes=hits.astype(np.int64),
        gold_no=hits_bad.astype(np.int64),
        sensitivity=model.sensitivity,
        specificity=model.specificity,
        sensitivity_interval=np.stack(beta_interval(hits, gold_good), axis=1),
        specificity_interval=np.stack(beta_interval(hits_bad, gold_bad), axis=1),
        repeats=repeats.astype(np.int64),
        consistency=_ratio(same, repeats),
        longest_run=run,
        run_surprise=surprise,
        fails_gold=fails_gold,
        too_fast=too_fast,
        inconsistent=inconsistent,
        straight_lining=straight,
        suspended=fails_gold | too_fast | inconsistent | straight,
    )


def _ratio(part: Floats, whole: Floats) -> Floats:
    result = np.full(len(whole), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _medians(by: npt.NDArray[np.intp], seconds: Floats, workers: int) -> Floats:
    result = np.full(workers, np.nan)
    order = np.lexsort((seconds, by))
    owner = by[order]
    first, last = (
        np.searchsorted(owner, np.arange(workers)),
        np.searchsorted(owner, np.arange(workers), side="right"),
    )
    some = last > first
    low, high = order[(first + last - 1)[some] // 2], order[(first + last)[some] // 2]
    result[some] = 0.5 * (seconds[low] + seconds[high])
    return result


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
    is_gold = ~np.isnan(_column(gold, touched, "gold", np.nan))
    return kept, np.setdiff1d(touched[~is_gold], np.concatenate([settled, expert]))
