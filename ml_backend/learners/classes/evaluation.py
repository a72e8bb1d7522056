"""Quality of probabilities of labels on the test split, with bootstrap intervals over pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.learners.base import Evaluation

__all__ = ["area_under_roc", "average_precision", "calibration_error", "evaluate_classes"]

Floats = npt.NDArray[np.float64]
Metric = Callable[[npt.NDArray[np.int64]], float]
_BINS: Final = 10
_MOST_LABELS: Final = 50
"""Labels that are reported one by one."""


def evaluate_classes(
    probability: Floats,
    truth: Floats,
    labels: Sequence[str],
    *,
    exclusive: bool,
    resamples: int = 400,
    seed: int = 0,
) -> Evaluation:
    """Metrics on n test pictures; 95 % intervals from ``resamples`` draws of pictures with replacement.

    ``accuracy`` is the share of pictures whose most probable label is right; in multiple choice the share of
    (picture, label) pairs that are right at a probability of one half, and ``exact_match`` the share of
    pictures with all labels right. ``balanced_accuracy``: mean recall of the labels (in multiple choice: mean
    of recall and specificity). ``AUC`` and ``average_precision``: mean over labels; of two labels of a single
    choice the rarer one counts. ``ECE``: expected calibration error of the winning probability in 10 bins.
    Labels one by one: ``precision/…``, ``recall/…``, ``F1/…``, ``AUC/…``. What cannot be measured (a label
    without a test picture) is left out.

    Parameters
    ----------
    probability, truth : (n, k), truth of 0 and 1
    """
    n, k = truth.shape
    if not n:
        return Evaluation(0, 0, {})
    present = np.flatnonzero(truth.any(axis=0))
    guess = _decided(probability, exclusive=exclusive)
    metrics: dict[str, Metric] = {"accuracy": lambda i: _accuracy(guess[i], truth[i], exclusive=exclusive)}
    if not exclusive:
        metrics["exact_match"] = lambda i: float((guess[i] == truth[i]).all(axis=1).mean())
    metrics["balanced_accuracy"] = lambda i: _balanced(guess[i], truth[i], exclusive=exclusive)
    ranked = present
    if exclusive and len(present) == 2 and k == 2:
        ranked = np.array([int(np.argmin(truth.sum(axis=0)))])
    for name, measure in (("AUC", area_under_roc), ("average_precision", average_precision)):
        metrics[name] = _mean_over(measure, probability, truth, ranked)
    metrics["ECE"] = lambda i: calibration_error(probability[i], truth[i], exclusive=exclusive)
    for label in present[:_MOST_LABELS] if n else ():
        name = labels[label]
        column = int(label)
        metrics[f"precision/{name}"] = _of_label(guess, truth, column, _precision)
        metrics[f"recall/{name}"] = _of_label(guess, truth, column, _recall)
        metrics[f"F1/{name}"] = _of_label(guess, truth, column, _f1)
        metrics[f"AUC/{name}"] = _mean_over(area_under_roc, probability, truth, np.array([column]))
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    every = np.arange(n)
    found = {}
    for name, metric in metrics.items():
        value = metric(every)
        if not np.isnan(value):
            found[name] = (value, *_interval([metric(draw) for draw in draws], value))
    return Evaluation(n, int(truth.sum()), found)


def area_under_roc(score: Floats, truth: Floats) -> float:
    """How often a picture with the label has a higher score than one without; ties count one half. NaN where
    all or none have it."""
    yes = truth > 0.5
    n_yes, n_no = int(yes.sum()), int((~yes).sum())
    if not n_yes or not n_no:
        return float("nan")
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - 0.5 * (counts - 1))[place]
    return float((rank[yes].sum() - 0.5 * n_yes * (n_yes + 1)) / (n_yes * n_no))


def average_precision(score: Floats, truth: Floats) -> float:
    """Area under the curve of precision over recall, by steps; NaN where no picture has the label."""
    yes = truth > 0.5
    if not yes.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(yes[order])
    # pictures of equal score are taken together
    end = np.append(np.flatnonzero(np.diff(score[order]) != 0), len(score) - 1)
    precision = right[end] / (end + 1)
    gained = np.diff(right[end], prepend=0)
    return float((precision * gained).sum() / right[-1])


def calibration_error(probability: Floats, truth: Floats, *, exclusive: bool) -> float:
    """Mean distance of stated probabilities from the share that is right, in 10 bins of equal width."""
    if exclusive:
        top = probability.argmax(axis=1)
        said = probability.max(axis=1)
        right = truth[np.arange(len(top)), top]
    else:
        said, right = probability.reshape(-1), truth.reshape(-1)
    where = np.minimum((said * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(where, weights=said - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(said))


def _decided(probability: Floats, *, exclusive: bool) -> Floats:
    if not exclusive:
        return np.asarray(probability > 0.5, np.float64)
    guess = np.zeros_like(probability)
    guess[np.arange(len(guess)), probability.argmax(axis=1)] = 1.0
    return guess


def _accuracy(guess: Floats, truth: Floats, *, exclusive: bool) -> float:
    return float((guess * truth).sum(axis=1).mean() if exclusive else (guess == truth).mean())


def _balanced(guess: Floats, truth: Floats, *, exclusive: bool) -> float:
    """Mean over the labels that occur."""
    yes = truth.sum(axis=0)
    recall = (guess * truth).sum(axis=0) / np.maximum(yes, 1.0)
    if exclusive:
        return float(recall[yes > 0].mean())
    no = len(truth) - yes
    specificity = ((1 - guess) * (1 - truth)).sum(axis=0) / np.maximum(no, 1.0)
    both = (yes > 0) & (no > 0)
    return float((0.5 * (recall + specificity))[both].mean()) if both.any() else float("nan")


def _precision(hits: float, guessed: float, true: float) -> float:
    return hits / guessed if guessed else float("nan")


def _recall(hits: float, guessed: float, true: float) -> float:
    return hits / true if true else float("nan")


def _f1(hits: float, guessed: float, true: float) -> float:
    return 2 * hits / (guessed + true) if guessed + true else float("nan")


def _of_label(
    guess: Floats, truth: Floats, label: int, measure: Callable[[float, float, float], float]
) -> Metric:
    g, t = guess[:, label], truth[:, label]
    return lambda i: measure(float((g[i] * t[i]).sum()), float(g[i].sum()), float(t[i].sum()))


def _mean_over(
    measure: Callable[[Floats, Floats], float], score: Floats, truth: Floats, labels: npt.NDArray[np.int64]
) -> Metric:
    def mean(rows: npt.NDArray[np.int64]) -> float:
        values = [measure(score[rows, label], truth[rows, label]) for label in labels]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    return mean


def _interval(drawn: Sequence[float], value: float) -> tuple[float, float]:
    known = np.asarray([v for v in drawn if not np.isnan(v)])
    if not len(known):
        return value, value
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
