"""Precision and recall at every threshold: against a plain count, and on a set small enough for the head."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustering.thresholds import TestMasks, threshold_curve

LADDER = np.linspace(0.0, 1.0, 11)


def test_a_set_of_six_masks() -> None:
    masks = TestMasks(
        score=np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.2]),
        good=np.array([True, True, False, True, True, False]),
        object=np.array([0, 0, 1, 0, 2, -1]),  # two good masks of the first object of picture 0
        place=np.array([0, 0, 0, 1, 0, 1]),
        label=np.array([0, 0, 0, 0, 1, 1]),
        objects=np.array([[2, 1], [1, 1]]),
    )
    curve = threshold_curve(masks, [0], np.array([0.0, 0.65, 0.75, 0.95]))
    assert curve.kept.tolist() == [4, 3, 2, 0]
    assert curve.good.tolist() == [3, 2, 2, 0]
    assert curve.objects == 3
    assert curve.precision[0, :3].tolist() == pytest.approx([0.75, 2 / 3, 1.0])
    assert np.isnan(curve.precision[0, 3])
    assert curve.recall[0].tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0.0])
    both = threshold_curve(masks, [0, 1], np.array([0.0]))
    assert both.recall[0].tolist() == pytest.approx([3 / 5])
    assert both.too_few


def _drawn(seed: int) -> TestMasks:
    rng = np.random.default_rng(seed)
    k, t = int(rng.integers(0, 80)), int(rng.integers(1, 14))
    objects = rng.integers(0, 5, (t, 3))
    place, label = rng.integers(0, t, k), rng.integers(0, 3, k)
    there = objects[place, label]
    good = (rng.random(k) < 0.6) & (there > 0)
    number = np.where(there > 0, rng.integers(0, 1000, k) % np.maximum(there, 1), -1)
    return TestMasks(np.round(rng.random(k), 1), good, number, place, label, objects)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), labels=st.sampled_from([[0], [1, 2], [0, 1, 2]]))
def test_counts_are_those_of_a_plain_loop(seed: int, labels: list[int]) -> None:
    masks = _drawn(seed)
    curve = threshold_curve(masks, labels, LADDER)
    for g, threshold in enumerate(LADDER):
        keep = np.isin(masks.label, labels) & (masks.score >= threshold)
        right = keep & masks.good
        found = set(zip(masks.place[right], masks.label[right], masks.object[right], strict=True))
        assert curve.kept[g] == keep.sum()
        assert curve.good[g] == (keep & masks.good).sum()
        if curve.objects:
            assert curve.recall[0, g] == pytest.approx(len(found) / curve.objects)
            assert curve.recall[1, g] <= curve.recall[0, g] <= curve.recall[2, g]


def test_columns_of_different_length_are_refused() -> None:
    one, none = np.zeros(1), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="different lengths"):
        TestMasks(one, none.astype(bool), none, none, none, np.zeros((1, 1), np.int64))
