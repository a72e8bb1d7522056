"""IoU, Dice, precision, recall and specificity of masks per label, with 95 % bootstrap intervals.

Pixels of all pictures are counted together before the ratios are taken, as is usual for such masks. So an
empty picture needs no rule of its own, and a stray pixel on it costs what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ml_backend.examples import Example
from ml_backend.instances import Instances, Rle
from ml_backend.learners.base import Evaluation
from ml_backend.masks.rle import decode_rle, rle_hw

__all__ = ["METRICS", "evaluate_masks", "pixel_counts"]

METRICS = ("IoU", "Dice", "precision", "recall", "specificity")
Doubles = npt.NDArray[np.float64]


def evaluate_masks(
    predicted: Sequence[Instances],
    truth: Sequence[Example],
    labels: Sequence[str],
    *,
    resamples: int = 400,
    seed: int = 0,
) -> Evaluation:
    """``IoU``, ``IoU/<label>``, ``Dice``, … of the union of each label's masks on each picture.

    The plain names are means over labels. Labels that no picture shows are left out (in a resample: that no
    drawn picture shows). With no true mask at all the metrics are empty. ``Example.ignore`` does not count.

    Raises ValueError when the two sequences differ in length.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions for {len(truth)} images")
    n_instances = sum(len(example.label) for example in truth)
    counts = (
        np.stack(
            [
                pixel_counts(found, example, len(labels))
                for found, example in zip(predicted, truth, strict=True)
            ]
        )
        if truth
        else np.zeros((0, len(labels), 4))
    )
    present = counts[:, :, [0, 2]].sum(axis=(0, 2)) > 0
    if not present.any():
        return Evaluation(len(truth), n_instances, {})
    draws = np.random.default_rng(seed).integers(0, len(truth), (resamples, len(truth)))
    # (1 + resamples, labels, 4), draw by draw: all at once would hold every drawn picture
    sums = np.stack([counts.sum(axis=0), *(counts[draw].sum(axis=0) for draw in draws)])
    values = np.where(sums[:, :, 0] + sums[:, :, 2] > 0, _ratios(sums), np.nan)  # (metrics, 1 + resamples, l)
    metrics = {}
    for name, columns in zip(METRICS, values, strict=True):
        metrics[name] = _interval(_mean(columns[:, present]))
    for name, columns in zip(METRICS, values, strict=True):
        for k in np.flatnonzero(present):
            metrics[f"{name}/{labels[k]}"] = _interval(columns[:, k])
    return Evaluation(len(truth), n_instances, metrics)


def pixel_counts(found: Instances, truth: Example, labels: int) -> Doubles:
    """(labels, 4) pixels of one picture: right, wrongly found, missed, rightly left."""
    rles = [*truth.rle, *found.rle, *truth.ignore]
    if not rles:
        return np.zeros((labels, 4))  # nothing drawn, nothing found: adds nothing to IoU, Dice, recall
    hw = rle_hw(rles[0])
    valid = ~_union(truth.ignore, hw)
    counts = np.zeros((labels, 4))
    for k in range(labels):
        true = _union([rle for rle, label in zip(truth.rle, truth.label, strict=True) if label == k], hw)
        mine = _union([rle for rle, label in zip(found.rle, found.label, strict=True) if label == k], hw)
        hit, wrong, missed = ((a & b & valid).sum() for a, b in ((mine, true), (mine, ~true), (~mine, true)))
        counts[k] = hit, wrong, missed, valid.sum() - hit - wrong - missed
    return counts


def _union(rles: Sequence[Rle], hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    union = np.zeros(hw, np.bool_)
    for rle in rles:
        union |= decode_rle(rle)
    return union


def _ratios(counts: Doubles) -> Doubles:
    """(metrics, …) from (…, 4) counts; a ratio of nothing is 0, specificity without background 1."""
    hit, wrong, missed, left = np.moveaxis(counts, -1, 0)

    def ratio(part: Doubles, whole: Doubles, empty: float = 0.0) -> Doubles:
        return np.where(whole > 0, part / np.maximum(whole, 1), empty)

    return np.stack(
        [
            ratio(hit, hit + wrong + missed),
            ratio(2 * hit, 2 * hit + wrong + missed),
            ratio(hit, hit + wrong),
            ratio(hit, hit + missed),
            ratio(left, left + wrong, 1.0),
        ]
    )


def _mean(values: Doubles) -> Doubles:
    """(draws,) means over labels; labels that a draw does not show are left out."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def _interval(values: Doubles) -> tuple[float, float, float]:
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (values[0], values[0])
    return float(values[0]), float(low), float(high)
