"""The test of nested candidate sets: its promise by simulation and by enumeration, and its power."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clustering.evidence import Noise
from clustering.search._sets import NestedSets, evaluate_sets, nest_sets, set_p_value


@pytest.mark.parametrize("noise", [Noise(), Noise(sensitivity=0.95, specificity=0.9)])
def test_the_set_test_keeps_its_promise_under_continuous_looking(noise: Noise) -> None:
    """The hardest case: every set delivers just less than promised, and the predictions say more."""
    rng = np.random.default_rng(0)
    n, alpha, runs, broken, certified = 600, 0.1, 300, 0, 0
    predicted = np.linspace(0.999, 0.78, n).astype(np.float32)
    sets = nest_sets(predicted, np.ones(n, bool), purity=0.85, noise=noise, alpha=alpha, min_set=30, most=200)
    assert sets is not None
    assert sets.planned > 80
    # members found wrong are not delivered: a set with a share g of good ones delivers g / (1 - asked · (1 -
    # g))
    asked = sets.planned / len(sets.order) if noise.exact else 0.0
    good = 0.85 * (1 - asked) / (1 - 0.85 * asked)
    bad = int((1 - good) * n) + 1
    truth = np.ones(n, bool)
    truth[(np.arange(bad) * n) // bad] = False  # evenly along the order: all sets are alike
    for _ in range(runs):
        rank = rng.permutation(len(sets.order))[: sets.planned]
        chance = np.where(truth[sets.order[rank]], noise.sensitivity, 1 - noise.specificity)
        yes = (rng.random(len(rank)) < chance).astype(float)
        # the largest evidence so far counts, so the last look stands for all
        test = evaluate_sets(sets, rank, yes, noise=noise, alpha=alpha)
        if test.certified:
            delivered = np.ones(test.certified, bool)
            if noise.exact:
                delivered[rank[(rank < test.certified) & (yes == 0)]] = False
            broken += truth[sets.order[: test.certified]][delivered].mean() < 0.85
            certified += 1
    assert broken <= runs * alpha + 2 * np.sqrt(runs * alpha * (1 - alpha))
    assert certified > 0  # the case is close to the promise, or nothing would pass


@given(
    size=st.integers(1, 40),
    share=st.floats(0.05, 1.0),
    target=st.floats(0.5, 0.99),
    alpha=st.floats(0.005, 0.3),
)
def test_the_p_value_of_a_broken_promise_is_valid(
    size: int, share: float, target: float, alpha: float
) -> None:
    """By enumeration: whatever the number of good members, a broken promise passes with probability at most
    alpha.
    """
    n = max(1, round(share * size))
    sets = NestedSets(np.arange(size), np.array([size]), np.ones(1), target, np.ones(size), n, size)
    p = np.array([set_p_value(sets, 0, np.repeat([1.0, 0.0], [k, n - k]), exact=True) for k in range(n + 1)])
    k = np.arange(n + 1)
    for good in range(size + 1):
        breaks = good < target * (size - n + k) - 1e-9
        chance = stats.hypergeom.pmf(k, size, good, n)
        assert chance[breaks & (p <= alpha)].sum() <= alpha + 1e-12


def test_the_set_test_has_power() -> None:
    rng = np.random.default_rng(1)
    certified = []
    for _ in range(50):
        predicted = np.sort(rng.beta(6, 1, 2000).astype(np.float32))[::-1].copy()
        truth = rng.random(2000) < predicted
        sets = nest_sets(
            predicted, np.ones(2000, bool), purity=0.8, noise=Noise(), alpha=0.05, min_set=30, most=300
        )
        assert sets is not None
        rank = rng.permutation(len(sets.order))[:300]
        yes = truth[sets.order[rank]].astype(float)
        certified.append(evaluate_sets(sets, rank, yes, noise=Noise(), alpha=0.05).certified)
    assert np.mean(np.array(certified) > 1000) > 0.9


def test_a_closed_attempt_stays_closed() -> None:
    rng = np.random.default_rng(2)
    predicted = np.linspace(0.99, 0.7, 800).astype(np.float32)
    truth = rng.random(800) < 0.7
    sets = nest_sets(
        predicted, np.ones(800, bool), purity=0.85, noise=Noise(), alpha=0.05, min_set=30, most=400
    )
    assert sets is not None
    rank = rng.permutation(len(sets.order))[:400]
    yes = truth[sets.order[rank]].astype(float)
    closed = [
        evaluate_sets(sets, rank[:t], yes[:t], noise=Noise(), alpha=0.05).closed for t in range(0, 400, 7)
    ]
    assert closed == sorted(closed)
    assert closed[-1]  # hopeless, which shows before all planned answers are there


def test_nothing_promising_makes_no_sets() -> None:
    low = np.full(500, 0.3, np.float32)
    options = {"purity": 0.85, "noise": Noise(), "alpha": 0.05, "min_set": 30, "most": 100}
    assert nest_sets(low, np.ones(500, bool), **options) is None  # type: ignore[arg-type]
    assert nest_sets(np.ones(500, np.float32), np.zeros(500, bool), **options) is None  # type: ignore[arg-type]
