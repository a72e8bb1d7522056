"""One row of figures per worker: accuracy, agreement with themselves, speed, what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Bools, Floats, Ints
from clustering.crowd.model import fit_crowd
from clustering.crowd.worker_answers import Answers, log_likelihood_ratios, values_of_items
from clustering.crowd.worker_figures import (
    beta_interval,
    longest_run,
    low_accuracy,
    medians,
    per_worker,
    ratio_of,
    repeat_agreement,
)

__all__ = ["WorkerReport", "worker_report"]

_SURE = 27.0
"""Log-odds of an item whose truth is known."""
_SILENT = 1e-6
"""Log-odds below which nothing is known of an item."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerReport:
    """What is known about w workers. Every share comes with the number of answers behind it.

    Attributes
    ----------
    worker : (w,) int64, sorted
    answers, unsure : (w,) int64
    seconds : (w,) float64, median time per answer, NaN = not known
    hurried : (w,) float64, share of answers below the time floor
    agreement : (w,) float64, share of answers that agree with what all others and the prior say, where they
        say anything; NaN where they never do
    gold_good, gold_bad : (w,) int64, answers to gold items of either class
    gold_yes, gold_no : (w,) int64, right answers among them: yes to good ones, no to bad ones
    sensitivity, specificity : (w,) float64, P(yes | good) and P(no | bad), estimated from all answers
    sensitivity_interval, specificity_interval : (w, 2) float64, 95 % credible intervals, from gold alone
    repeats : (w,) int64, answers to hidden repeats
    consistency : (w,) float64, share of repeats answered the same again, NaN without repeats
    longest_run : (w,) int64, length of the least likely run of equal answers
    run_surprise : (w,) float64, negative log probability of that run, in nats
    fails_gold, too_fast, inconsistent, straight_lining : (w,) bool, reasons to suspend
    suspended : (w,) bool, any of them
    """

    worker: Ints
    answers: Ints
    unsure: Ints
    seconds: Floats
    hurried: Floats
    agreement: Floats
    gold_good: Ints
    gold_bad: Ints
    gold_yes: Ints
    gold_no: Ints
    sensitivity: Floats
    specificity: Floats
    sensitivity_interval: Floats
    specificity_interval: Floats
    repeats: Ints
    consistency: Floats
    longest_run: Ints
    run_surprise: Floats
    fails_gold: Bools
    too_fast: Bools
    inconsistent: Bools
    straight_lining: Bools
    suspended: Bools


def worker_report(
    answers: Answers,
    *,
    prior: npt.ArrayLike | None = None,
    gold: npt.ArrayLike | None = None,
    hidden: Bools | None = None,
    floor_s: float | Floats = 0.6,
    least_accuracy: float = 0.8,
    certainty: float = 0.9,
) -> WorkerReport:
    """Judge every worker by evidence: gold, speed, repeats, runs of equal answers.

    Parameters
    ----------
    prior, gold : as for ``fit_crowd``
    hidden : (a,) bool, answers to hidden repeats, which must be drawn at random. None = every further answer
        of a worker to an item. A question asked again because it was open is no hidden repeat: such questions
        come back where somebody erred, and would make careful workers look inconsistent.
    floor_s : seconds that nobody can look at a mask in less, one number or (a,) one per answer. A worker is
        suspended where P(share of hurried answers > 0.2) > certainty
    least_accuracy, certainty : a worker is suspended where P(accuracy < least_accuracy) > certainty on good
        gold, on bad gold, or on both together; likewise for consistency on hidden repeats. The classes are
        looked at one by one because who says yes to everything is perfect on one of them.

    Returns
    -------
    WorkerReport. Time O(a log a) for a answers, beside the fit.

    Raises
    ------
    ValueError : as ``fit_crowd``
    """
    model = fit_crowd(answers, prior=prior, gold=gold)
    w = len(model.worker)
    by_all = np.searchsorted(model.worker, answers.worker)
    told = ~np.isnan(answers.yes)
    is_repeat = np.ones(len(answers), bool) if hidden is None else hidden
    by, yes, item = by_all[told], answers.yes[told], answers.item[told]
    at = np.searchsorted(model.item, item)
    truth = values_of_items(gold, model.item, name="gold", missing=np.nan)[at]
    good, bad = truth == 1.0, truth == 0.0
    # what all others say about the item, without this answer
    ratio = log_likelihood_ratios(yes, by, model.sensitivity, model.specificity)
    known_truth = np.where(good, _SURE, -_SURE)
    others = np.where(np.isnan(truth), model.log_odds[at] - ratio, known_truth)
    # the chance of a yes from a careful worker, who is right nine times in ten
    chance = special.expit(others)
    chance_yes = 0.9 * chance + 0.1 * (1.0 - chance)
    # where nobody else says anything about a mask, no answer is a surprise: masks are asked about best first,
    # so careful workers see long runs of good ones, and later of bad ones
    said = np.abs(others) > _SILENT
    log_chance = np.log(np.where(said, np.where(yes > 0, chance_yes, 1.0 - chance_yes), 0.9))
    run, surprise = longest_run(by, yes, log_chance, w)
    asked, told_count = per_worker(by_all, np.ones(len(answers)), w), per_worker(by, np.ones(len(by)), w)
    gold_good, gold_bad = per_worker(by, good, w), per_worker(by, bad, w)
    hits, hits_bad = per_worker(by, good & (yes > 0), w), per_worker(by, bad & (yes == 0), w)
    repeats, same = repeat_agreement(item, by, yes, w, is_repeat[told])
    timed = ~np.isnan(answers.seconds)
    clocked = per_worker(by_all[timed], np.ones(int(timed.sum())), w)
    floor = np.broadcast_to(np.asarray(floor_s, np.float64), answers.seconds.shape)
    fast = per_worker(by_all[timed], answers.seconds[timed] < floor[timed], w)
    agree = per_worker(by, said & ((others > 0) == (yes > 0)), w)
    fails_gold = low_accuracy(hits, gold_good, least_accuracy, certainty)
    fails_gold |= low_accuracy(hits_bad, gold_bad, least_accuracy, certainty)
    fails_gold |= low_accuracy(hits + hits_bad, gold_good + gold_bad, least_accuracy, certainty)
    too_fast = low_accuracy(clocked - fast, clocked, 0.8, certainty)
    inconsistent = low_accuracy(same, repeats, least_accuracy, certainty)
    # so that about one careful worker in a thousand is suspected, however many runs they produced
    straight = surprise > np.log(1000.0 * np.maximum(told_count, 1.0)) + run * 0.25
    return WorkerReport(
        worker=model.worker,
        answers=asked.astype(np.int64),
        unsure=(asked - told_count).astype(np.int64),
        seconds=medians(by_all[timed], answers.seconds[timed], w),
        hurried=ratio_of(fast, clocked),
        agreement=ratio_of(agree, per_worker(by, said, w)),
        gold_good=gold_good.astype(np.int64),
        gold_bad=gold_bad.astype(np.int64),
        gold_yes=hits.astype(np.int64),
        gold_no=hits_bad.astype(np.int64),
        sensitivity=model.sensitivity,
        specificity=model.specificity,
        sensitivity_interval=np.stack(beta_interval(hits, gold_good), axis=1),
        specificity_interval=np.stack(beta_interval(hits_bad, gold_bad), axis=1),
        repeats=repeats.astype(np.int64),
        consistency=ratio_of(same, repeats),
        longest_run=run,
        run_surprise=surprise,
        fails_gold=fails_gold,
        too_fast=too_fast,
        inconsistent=inconsistent,
        straight_lining=straight,
        suspended=fails_gold | too_fast | inconsistent | straight,
    )
