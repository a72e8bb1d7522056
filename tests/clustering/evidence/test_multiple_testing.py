"""Several hypotheses at once: the order, the weights, and the error rate by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import fallback


def test_fallback_hands_the_error_on_and_starts_again() -> None:
    alpha = 0.05
    half, whole, never = alpha / 2, alpha, 1.0
    # half the error each: a rejected first one hands its half on, a failed one loses it
    assert fallback([half, whole], [0.5, 0.5], alpha=alpha).tolist() == [True, True]
    assert fallback([never, whole], [0.5, 0.5], alpha=alpha).tolist() == [False, False]
    assert fallback([never, half], [0.5, 0.5], alpha=alpha).tolist() == [False, True]
    # with all the error on the first it is the fixed sequence: everything before the first failure
    for p in ([1e-4, 1e-4, never, 1e-4], [never, 1e-4, 1e-4, 1e-4], [1e-4] * 4, [np.nan, 1e-4, 1e-4, 1e-4]):
        rejected = fallback(p, [1.0, 0.0, 0.0, 0.0], alpha=alpha)
        first_failure = next((k for k, value in enumerate(p) if not value <= alpha), len(p))
        assert rejected.tolist() == [k < first_failure for k in range(4)]
    for weights in ([0.9, 0.9], [1.0], [1.1, -0.1]):
        with pytest.raises(ValueError, match="one weight"):
            fallback([0.1, 0.1], weights, alpha=alpha)


def test_fallback_rarely_rejects_a_true_hypothesis() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        # the first and the last are false; those between are true, with uniform, sometimes equal p-values
        p = np.full(3, rng.random()) if rng.random() < 0.5 else rng.random(3)
        p = np.concatenate([[1e-9], p, [1e-9]])
        wrong += fallback(p, [0.4, 0.1, 0.2, 0.2, 0.1], alpha=0.1)[1:4].any()
    assert wrong <= 2000 * 0.1 + 3 * np.sqrt(2000 * 0.09)
