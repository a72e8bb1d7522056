"""Verdicts that err: corrected rates, and the error rates of workers estimated from gold."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import Noise, noise_from_gold, rogan_gladen
from tests.clustering.evidence.trials import RUNS, most_failures


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
