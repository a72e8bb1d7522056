"""Tests that are looked at after every answer: wrong no more often than said, and able to decide."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import betting_log_wealth, betting_lower_bound, binomial_log_e_value
from tests.clustering.evidence.trials import RUNS, most_failures


def test_uniform_mixture_is_its_integral() -> None:
    for yes, asked, share in ((20, 20, 0.8), (7, 10, 0.5), (3, 30, 0.6)):
        theta = np.linspace(share, 1, 200_001)
        values = theta**yes * (1 - theta) ** (asked - yes)
        integral = float(((values[1:] + values[:-1]) / 2).sum() * (theta[1] - theta[0]))
        expected = np.log(integral / ((1 - share) * share**yes * (1 - share) ** (asked - yes)))
        assert binomial_log_e_value(yes, asked, share=share) == pytest.approx(expected, abs=1e-4)


def test_uniform_mixture_certifies_after_twenty_straight_yes() -> None:
    assert binomial_log_e_value(20, 20, share=0.8) >= np.log(20)
    assert binomial_log_e_value(19, 19, share=0.8) < np.log(20)


def test_uniform_mixture_stays_finite_where_its_tail_underflows() -> None:
    value = binomial_log_e_value([10, 100], [100_000, 100_000], share=0.9)
    assert np.isfinite(value).all()
    assert (value < 0).all()


def test_uniform_mixture_under_continuous_looking() -> None:
    rng = np.random.default_rng(2)
    n = np.arange(1, 501)
    yes = (rng.random((500, 500)) < 0.85).cumsum(axis=1)
    crossed = (binomial_log_e_value(yes, n, share=0.85) >= np.log(20)).any(axis=1)
    assert crossed.sum() <= most_failures(0.05, 500)
    mirrored = (binomial_log_e_value(n - yes, n, share=0.15) >= np.log(20)).any(axis=1)
    assert mirrored.sum() <= most_failures(0.05, 500)


@pytest.mark.parametrize("population", [None, 60, 400])
def test_betting_under_continuous_looking(population: int | None) -> None:
    rng = np.random.default_rng(3)
    crossed = 0
    for _ in range(RUNS):
        if population is None:
            values = (rng.random(200) < 0.85).astype(float)
        else:
            members = (np.arange(population) < 0.85 * population).astype(float)
            values = rng.permutation(members)[: min(200, population)]
        crossed += betting_log_wealth(values, share=0.85, population=population).max() >= np.log(20)
    assert crossed <= most_failures(0.05)


def test_betting_with_a_control_variate_stays_valid() -> None:
    """Values may leave 0..1 and be drawn without replacement, as long as their mean is the share."""
    rng = np.random.default_rng(4)
    crossed = 0
    for _ in range(RUNS):
        predicted = rng.beta(9, 2, 150)
        truth = np.zeros(150)
        # as pure as H0 allows, and strongly related to the prediction
        truth[np.argsort(-(predicted + 0.3 * rng.random(150)))[:120]] = 1.0
        control = 0.8 * (predicted - predicted.mean())
        values = rng.permutation(truth - control)[:100]
        wealth = betting_log_wealth(values, share=0.8, population=150, floor=-control.max())
        crossed += wealth.max() >= np.log(20)
    assert crossed <= most_failures(0.05)


def test_betting_without_replacement_ends_in_certainty() -> None:
    good = np.array([1.0] * 18 + [0.0] * 2)
    wealth = betting_log_wealth(good, share=0.85, population=20)
    assert wealth[-1] == np.inf  # 18 of 20 is more than 17
    assert betting_log_wealth(good[::-1], share=0.9, population=20).max() < np.log(20)
    with pytest.raises(ValueError, match="drawn without replacement"):
        betting_log_wealth(np.ones(5), share=0.5, population=4)
    with pytest.raises(ValueError, match="below the floor"):
        betting_log_wealth([-0.5], share=0.5)


def test_betting_has_power() -> None:
    rng = np.random.default_rng(5)
    draws = (rng.random((200, 150)) < 0.95).astype(float)
    certified = [betting_log_wealth(row, share=0.85).max() >= np.log(20) for row in draws]
    assert np.mean(certified) > 0.8


def test_betting_lower_bound_holds_at_all_times() -> None:
    rng = np.random.default_rng(6)
    missed = 0
    for _ in range(100):
        values = (rng.random(80) < 0.7).astype(float)
        missed += any(betting_lower_bound(values[:t], steps=12) > 0.7 for t in (10, 20, 40, 80))
    assert missed <= most_failures(0.05, 100)
    assert 0.8 < betting_lower_bound(np.ones(40)) < 1.0
