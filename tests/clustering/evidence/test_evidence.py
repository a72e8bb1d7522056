"""Bounds against scipy, and their promises by simulation: wrong no more often than said, however often one
looks.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clustering.evidence.answer_noise import Noise, noise_from_gold, rogan_gladen
from clustering.evidence.intervals import bernstein_interval, clopper_pearson, hypergeometric_interval
from clustering.evidence.multiple_testing import conformal_selection, e_bh, fallback, fixed_sequence
from clustering.evidence.sequential import Sprt, betting_log_wealth, betting_lower_bound, binomial_log_e_value

RUNS = 2000


def most_failures(alpha: float, runs: int = RUNS) -> int:
    """Failures that a true error of alpha exceeds once in ten thousand experiments."""
    return int(stats.binom.ppf(1 - 1e-4, runs, alpha))


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
    assert bernstein_interval([1.0]) == (0.0, 1.0)
    assert betting_lower_bound([]) == 0.0
    assert len(betting_log_wealth([], share=0.5)) == 0


@pytest.mark.parametrize(("size", "asked"), [(40, 15), (200, 30), (12, 12)])
def test_hypergeometric_interval_covers_every_population(size: int, asked: int) -> None:
    good = np.arange(size + 1)
    yes = np.arange(asked + 1)
    lower, upper = hypergeometric_interval(yes, asked, size, alpha=0.05)
    chance = stats.hypergeom.pmf(yes[None, :], size, good[:, None], asked)
    share = good[:, None] / size
    # exact: for every true number of good members each side misses with at most alpha
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


def test_bernstein_covers() -> None:
    rng = np.random.default_rng(0)
    draws = rng.beta(8, 2, (RUNS, 60))
    bounds = np.array([bernstein_interval(row, alpha=0.05) for row in draws])
    assert (bounds[:, 0] > 0.8).sum() <= most_failures(0.05)
    assert (bounds[:, 1] < 0.8).sum() <= most_failures(0.05)


def test_sprt_errs_no_more_than_promised_when_watched_throughout() -> None:
    test = Sprt(p0=0.75, p1=0.9, alpha=0.05, beta=0.05)
    rng = np.random.default_rng(1)
    n = np.arange(1, 401)
    for share, wrong in ((0.75, 1), (0.9, -1)):
        yes = (rng.random((RUNS, 400)) < share).cumsum(axis=1)
        assert (test.decide(yes, n) == wrong).any(axis=1).sum() <= most_failures(0.05)
    with pytest.raises(ValueError, match="p0"):
        Sprt(p0=0.9, p1=0.8)


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
        # as pure as the null allows, and as related to the prediction as it can be
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


def test_fallback_hands_the_error_on_and_starts_again() -> None:
    alpha = 0.05
    half = -np.log(alpha / 2)
    whole = -np.log(alpha)
    # two halves: what the first leaves is enough for the second, a failed one takes its share with it
    assert fallback([half, whole], [0.5, 0.5], alpha=alpha).tolist() == [True, True]
    assert fallback([0.0, whole], [0.5, 0.5], alpha=alpha).tolist() == [False, False]
    assert fallback([0.0, half], [0.5, 0.5], alpha=alpha).tolist() == [False, True]
    # with all the error on the first it is the fixed sequence
    for log_e in ([9.0, 9.0, 0.0, 9.0], [0.0, 9.0, 9.0, 9.0], [9.0] * 4):
        rejected = fallback(log_e, [1.0, 0.0, 0.0, 0.0], alpha=alpha)
        assert rejected.sum() == fixed_sequence(log_e, alpha=alpha)
    with pytest.raises(ValueError, match="one weight"):
        fallback([1.0, 1.0], [0.9, 0.9], alpha=alpha)


def test_fallback_rarely_rejects_a_true_hypothesis() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        # the first and the last are false, those between true: their p-values are uniform and dependent
        p = np.full(3, rng.random()) if rng.random() < 0.5 else rng.random(3)
        log_e = -np.log(np.concatenate([[1e-9], p, [1e-9]]))
        wrong += fallback(log_e, [0.4, 0.1, 0.2, 0.2, 0.1], alpha=0.1)[1:4].any()
    assert wrong <= 2000 * 0.1 + 3 * np.sqrt(2000 * 0.09)


def test_fixed_sequence_stops_at_the_first_failure() -> None:
    bar = -np.log(0.05)
    assert fixed_sequence([bar, bar + 1, 0.0, bar + 9], alpha=0.05) == 2
    assert fixed_sequence([bar + 1] * 3, alpha=0.05) == 3
    assert fixed_sequence([np.nan, bar + 1], alpha=0.05) == 0


def test_e_bh_controls_the_false_discovery_rate() -> None:
    rng = np.random.default_rng(7)
    shares = []
    for _ in range(400):
        null = np.arange(60) < 40
        yes = rng.binomial(60, np.where(null, 0.8, 0.97))
        chosen = e_bh(np.exp(binomial_log_e_value(yes, 60, share=0.8)), alpha=0.1)
        shares.append((chosen & null).sum() / max(1, chosen.sum()))
    assert np.mean(shares) <= 0.1
    assert e_bh([], alpha=0.1).shape == (0,)
    assert not e_bh([0.0, 1.0], alpha=0.1).any()
    assert e_bh([40.0, 25.0, 0.1], alpha=0.1).tolist() == [True, True, False]


def test_conformal_selection_controls_the_false_discovery_rate() -> None:
    rng = np.random.default_rng(8)
    shares, found = [], 0
    for _ in range(300):
        good = rng.random(600) < 0.6
        score = rng.normal(np.where(good, 1.5, 0.0))
        chosen = conformal_selection(score[:200], ~good[:200], score[200:], alpha=0.2)
        found += int(chosen.sum())
        shares.append((chosen & ~good[200:]).sum() / max(1, chosen.sum()))
    assert np.mean(shares) <= 0.2 + 0.01
    assert found > 300 * 100


def test_rogan_gladen_inverts_the_noise() -> None:
    noise = Noise(sensitivity=0.95, specificity=0.9)
    share = np.linspace(0, 1, 11)
    np.testing.assert_allclose(rogan_gladen(noise.observed(share), noise), share)
    assert noise.observed(0.85) == pytest.approx(0.8225)
    assert Noise().exact
    with pytest.raises(ValueError, match="say nothing"):
        Noise(sensitivity=0.5, specificity=0.5)


def test_noise_from_gold_errs_on_the_safe_side() -> None:
    rng = np.random.default_rng(9)
    true = Noise(sensitivity=0.95, specificity=0.9)
    unsafe = 0
    for _ in range(RUNS):
        estimate, worst = noise_from_gold(
            int(rng.binomial(60, 0.95)), 60, int(rng.binomial(60, 0.9)), 60, alpha=0.05
        )
        assert worst.sensitivity >= estimate.sensitivity - 0.02
        unsafe += int(worst.observed(0.85) < true.observed(0.85))
    assert unsafe <= most_failures(0.05)
    with pytest.raises(ValueError, match="gold"):
        noise_from_gold(5, 5, 0, 5)
