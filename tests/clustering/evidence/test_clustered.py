"""Intervals of a share over groups: coverage on drawn groups, and what they say at the ends."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import clopper_pearson
from clustering.evidence.clustered import clustered_interval


@pytest.mark.parametrize("groups", [5, 10, 40])
@pytest.mark.parametrize("alike", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.97])
def test_intervals_hold_for_groups_of_unequal_size(groups: int, alike: float, share: float) -> None:
    """``alike`` is the correlation of two masks of one group; groups hold 1 to 29 of them."""
    rng = np.random.default_rng([groups, int(100 * alike), int(100 * share)])
    draws = 400
    count = rng.integers(1, 30, (groups, draws))
    chance = np.full((groups, draws), share)
    if alike:
        strength = (1.0 - alike) / alike
        chance = rng.beta(share * strength, (1.0 - share) * strength, (groups, draws))
    good = rng.binomial(count, chance)
    _, lower, upper = clustered_interval(good, count)
    held = ((lower <= share) & (share <= upper)).mean()
    assert held > 0.915  # 95 % but for the noise of 400 draws


def test_a_plain_interval_of_independent_masks_is_not_narrower_than_the_exact_one() -> None:
    count = np.ones((50, 1))
    good = (np.arange(50) < 40).astype(float)[:, None]
    share, lower, upper = clustered_interval(good, count)
    exact_lower, exact_upper = clopper_pearson(40, 50, alpha=0.025)
    assert share[0] == pytest.approx(0.8)
    assert lower[0] <= exact_lower + 1e-6
    assert upper[0] >= exact_upper - 1e-6


def test_nothing_one_group_and_no_failure() -> None:
    share, lower, upper = clustered_interval(np.zeros((4, 2)), np.array([[0, 3]] + [[0, 0]] * 3))
    assert np.isnan(share[0])
    assert lower.tolist() == [0.0, 0.0]
    assert upper.tolist() == [1.0, 1.0]
    whole = np.full((10, 1), 20)
    share, lower, upper = clustered_interval(whole, whole)
    assert share[0] == upper[0] == 1.0
    # ten pictures without a failure are worth ten masks, not two hundred
    assert 0.6 < lower[0] < 0.025 ** (1 / 10)


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        clustered_interval(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="0 <= good <= count"):
        clustered_interval([[2]], [[1]])
