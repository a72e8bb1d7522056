"""Bounds of a fixed number of answers: against scipy, by enumeration, and their promise by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clustering.evidence import (
    betting_log_wealth,
    betting_lower_bound,
    clopper_pearson,
    hypergeometric_interval,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.01, 0.05, 0.2]))
def test_clopper_pearson_is_scipys(asked: int, share: float, alpha: float) -> None:
    yes = round(asked * share)
    lower, upper = clopper_pearson(yes, asked, alpha=alpha)
    exact = stats.binomtest(yes, asked).proportion_ci(1 - 2 * alpha, method="exact")
    np.testing.assert_allclose([float(lower), float(upper)], [exact.low, exact.high], atol=1e-9)


def test_clopper_pearson_knows_the_published_sample_sizes() -> None:
    # answers needed to certify a purity at 95 % with 0, 1, 2, 3 times no
    for purity, needed in {0.75: (11, 18, 23, 29), 0.85: (19, 30, 40, 50), 0.95: (59, 93, 124, 153)}.items():
        for no, n in enumerate(needed):
            assert clopper_pearson(n - no, n)[0] >= purity
            assert clopper_pearson(n - 1 - no, n - 1)[0] < purity


def test_nothing_asked_says_nothing() -> None:
    assert [float(b) for b in clopper_pearson(0, 0)] == [0.0, 1.0]
    assert [float(b) for b in hypergeometric_interval(0, 0, 10)] == [0.0, 1.0]
    assert betting_lower_bound([]) == 0.0
    assert len(betting_log_wealth([], share=0.5)) == 0


@pytest.mark.parametrize(("size", "asked"), [(40, 15), (200, 30), (12, 12)])
def test_hypergeometric_interval_covers_every_population(size: int, asked: int) -> None:
    good = np.arange(size + 1)
    yes = np.arange(asked + 1)
    lower, upper = hypergeometric_interval(yes, asked, size, alpha=0.05)
    chance = stats.hypergeom.pmf(yes[None, :], size, good[:, None], asked)
    share = good[:, None] / size
    # whatever the true number of good members, each bound is wrong with probability at most alpha
    assert (chance * (lower[None, :] > share + 1e-12)).sum(axis=1).max() <= 0.05
    assert (chance * (upper[None, :] < share - 1e-12)).sum(axis=1).max() <= 0.05
    if size == asked:
        np.testing.assert_allclose(lower, yes / size)
        np.testing.assert_allclose(upper, yes / size)


def test_hypergeometric_interval_is_tighter_than_the_binomial_one() -> None:
    finite = hypergeometric_interval(25, 30, 60)
    assert finite[0] > clopper_pearson(25, 30)[0]
    assert finite[1] < clopper_pearson(25, 30)[1]
    with pytest.raises(ValueError, match="needs 0 <= yes"):
        hypergeometric_interval(5, 4, 10)
