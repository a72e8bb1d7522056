"""What a smallest score would keep: precision and recall on test pictures at every threshold, with intervals.

Precision is the share of good masks among those kept, recall the share of drawn objects that a kept good mask
finds. Masks of one picture succeed or fail together, so intervals are those of groups
(``clustering.evidence.clustered``). They are right for random pictures like the test pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clustering.arrays import Bools, Floats, Ints
from clustering.evidence.clustered import clustered_interval

__all__ = ["FEWEST_PICTURES", "TestMasks", "ThresholdCurve", "threshold_curve"]

FEWEST_PICTURES = 10
"""With fewer test pictures nothing is said."""


@dataclass(frozen=True, slots=True, eq=False)
class TestMasks:
    """k predictions on t test pictures.

    Attributes
    ----------
    score : (k,) float64 in 0..1
    good : (k,) bool
    object : (k,) int64, the drawn object that each overlaps most, numbered within its picture; -1 none
    place : (k,) int64, which of the t pictures each is on
    label : (k,) int64
    objects : (t, labels) int64, drawn objects

    Raises
    ------
    ValueError : the columns have different lengths
    """

    __test__ = False  # pytest: not a test

    score: Floats
    good: Bools
    object: Ints
    place: Ints
    label: Ints
    objects: Ints

    def __post_init__(self) -> None:
        columns = (self.score, self.good, self.object, self.place, self.label)
        if len({len(column) for column in columns}) > 1:
            raise ValueError("columns of the test masks have different lengths")


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdCurve:
    """Figures at g thresholds; intervals are two-sided at 95 %.

    Attributes
    ----------
    kept, good : (g,) int64, masks on the test pictures with this score or more, and the good ones among them
    objects : drawn objects
    pictures : test pictures with a mask or an object of the labels
    precision, recall : (3, g) float64: share, lower and upper bound; the share is NaN where there is nothing
    """

    kept: Ints
    good: Ints
    objects: int
    pictures: int
    precision: Floats
    recall: Floats

    @property
    def too_few(self) -> bool:
        """Whether there are too few pictures to say anything."""
        return self.pictures < FEWEST_PICTURES


def threshold_curve(masks: TestMasks, labels: Sequence[int], thresholds: Floats) -> ThresholdCurve:
    """Figures of some labels together at each threshold (ascending). Time O(k log k + t·g)."""
    t, g = len(masks.objects), len(thresholds)
    mine = np.isin(masks.label, np.asarray(labels, np.int64))
    kept = _above(masks.place[mine], masks.score[mine], thresholds, t)
    right = mine & masks.good
    good = _above(masks.place[right], masks.score[right], thresholds, t)
    place, score = _best_of_objects(masks, np.flatnonzero(right & (masks.object >= 0)))
    found = _above(place, score, thresholds, t)
    there = masks.objects[:, np.asarray(labels, np.int64)].sum(axis=1)
    # a good mask of an object that was counted with another label must not count twice
    found = np.minimum(found, there[:, None])
    objects = np.broadcast_to(there[:, None], (t, g))
    used = (there > 0) | (kept[:, 0] > 0) if g else there > 0
    return ThresholdCurve(
        kept.sum(axis=0),
        good.sum(axis=0),
        int(there.sum()),
        int(used.sum()),
        np.stack(clustered_interval(good, kept)),
        np.stack(clustered_interval(found, objects)),
    )


def _best_of_objects(masks: TestMasks, rows: Ints) -> tuple[Ints, Floats]:
    """Picture and best score of each object that a good mask finds."""
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0)
    name = np.stack([masks.place[rows], masks.label[rows], masks.object[rows]], axis=1)
    unique, which = np.unique(name, axis=0, return_inverse=True)
    best = np.zeros(len(unique))
    np.maximum.at(best, which.reshape(-1), masks.score[rows])
    return unique[:, 0], best


def _above(place: Ints, score: Floats, thresholds: Floats, pictures: int) -> Ints:
    """(pictures, g) int64: how many have the threshold or more."""
    step = np.searchsorted(thresholds, score, side="right")  # thresholds[:step] are passed
    table = np.zeros((pictures, len(thresholds) + 1), np.int64)
    np.add.at(table, (place, step), 1)
    passed: Ints = np.cumsum(table[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return passed
