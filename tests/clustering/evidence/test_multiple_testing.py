"""Several hypotheses at once: orders, weights, and error rates by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import binomial_log_e_value, conformal_selection, e_bh, fallback, fixed_sequence


def test_fallback_hands_the_error_on_and_starts_again() -> None:
    alpha = 0.05
    half = -np.log(alpha / 2)
    whole = -np.log(alpha)
    # half the error each: a rejected first one hands its half on, a failed one loses it
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
        # the first and the last are false; those between are true, with uniform, sometimes equal p-values
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
