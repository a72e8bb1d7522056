"""One row of figures per worker: accuracy, agreement with themselves, speed, what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.crowd.model import Answers, Floats, column_of, fit_crowd
from clustering.crowd.worker_figures import (
    beta_interval,
    longest_run,
    low_accuracy,
    per_worker,
    repeat_agreement,
)

__all__ = ["WorkerReport", "worker_report"]


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
    truth = column_of(gold, model.item, "gold", np.nan)[at]
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
