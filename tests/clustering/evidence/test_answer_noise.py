"""Verdicts that err: corrected rates, and the error rates of people estimated from gold."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.evidence import Noise, noise_from_gold, rogan_gladen
from tests.clustering.evidence.trials import most_failures


def test_rogan_gladen_inverts_the_noise() -> None:
    noise = Noise(sensitivity=0.95, specificity=0.9)
    share = np.linspace(0, 1, 11)
    np.testing.assert_allclose(rogan_gladen(noise.observed(share), noise), share)
    assert noise.observed(0.85) == pytest.approx(0.8225)
    assert Noise().exact
    with pytest.raises(ValueError, match="say nothing"):
        Noise(sensitivity=0.5, specificity=0.5)


@pytest.mark.parametrize(
    "true", [Noise(sensitivity=0.95, specificity=0.9), Noise(sensitivity=0.9, specificity=0.6)]
)
def test_gold_bounds_hold_whenever_one_looks(true: Noise) -> None:
    """Somebody adds gold until the bounds look best; they are wrong in few streams all the same."""
    rng = np.random.default_rng(9)
    runs, alpha, unsafe, best_of_all = 100, 0.2, 0, []
    looks = np.unique(np.geomspace(12, 500, 6).astype(int))
    for _ in range(runs):
        yes = np.cumsum(rng.random(looks[-1]) < true.sensitivity)
        no = np.cumsum(rng.random(looks[-1]) < true.specificity)
        wrong = False
        for k in looks.tolist():
            try:
                _, worst = noise_from_gold(int(yes[k - 1]), k, int(no[k - 1]), k, alpha=alpha)
            except ValueError:
                continue
            wrong |= worst.sensitivity < true.sensitivity or worst.specificity > true.specificity
        unsafe += wrong
        best_of_all.append(worst.specificity)
    assert unsafe <= most_failures(alpha, runs)
    assert np.mean(best_of_all) > true.specificity - 0.1  # and with enough gold they are of use


def test_the_cautious_end_promises_less_than_the_estimate() -> None:
    for k in (40, 200, 1000):
        estimate, worst = noise_from_gold(round(0.95 * k), k, round(0.9 * k), k)
        assert worst.sensitivity > estimate.sensitivity
        assert worst.specificity < estimate.specificity
        assert worst.observed(0.85) > estimate.observed(0.85)


@pytest.mark.parametrize("gold", [(5, 5, 0, 5), (0, 0, 0, 0), (40, 40, 0, 0), (10, 40, 20, 40)])
def test_too_little_or_useless_gold_is_refused(gold: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="gold"):
        noise_from_gold(*gold)
