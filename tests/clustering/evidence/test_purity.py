"""Tests of the purity of a finite set: by enumeration, whatever the set holds."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import stats

from clustering.evidence import Noise, hypergeometric_interval, rest_p_value, whole_p_value

EXACT, NOISY = Noise(), Noise(sensitivity=0.95, specificity=0.8)


def _yes_given_good(asked: int, noise: Noise) -> np.ndarray:
    """(asked + 1, asked + 1) probability of k yes where x of the masks asked about are good."""
    table = np.zeros((asked + 1, asked + 1))
    for x in range(asked + 1):
        hits = stats.binom.pmf(np.arange(x + 1), x, noise.sensitivity)
        wrong = stats.binom.pmf(np.arange(asked - x + 1), asked - x, 1.0 - noise.specificity)
        table[x] = np.convolve(hits, wrong)
    return table


@pytest.mark.parametrize("noise", [EXACT, NOISY])
@pytest.mark.parametrize("share", [0.6, 0.85])
@pytest.mark.parametrize("size", [1, 2, 7, 12, 25])
def test_a_false_statement_is_accepted_with_probability_alpha_at_most(
    size: int, share: float, noise: Noise
) -> None:
    """For every number of good masks, every size of the sample and every alpha that matters."""
    for asked in range(1, size + 1):
        told = _yes_given_good(asked, noise)
        k = np.arange(asked + 1)
        rest_p = np.array([rest_p_value(int(y), asked, size, share=share, noise=noise) for y in k])
        whole_p = np.array([whole_p_value(int(y), asked, size, share=share, noise=noise) for y in k])
        for good in range(size + 1):
            inside = np.array([comb(good, x) * comb(size - good, asked - x) for x in k]) / comb(size, asked)
            chance = inside[:, None] * told  # (good ones in the sample, yes)
            rest_false = good - k < share * (size - asked) - 1e-9
            whole_false = good < share * size - 1e-9
            for alpha in (0.01, 0.05, 0.2, *rest_p, *whole_p):
                accepted = chance[np.ix_(rest_false, rest_p <= alpha)].sum() if asked < size else 0.0
                assert accepted <= alpha + 1e-9
                if whole_false:
                    assert chance[:, whole_p <= alpha].sum() <= alpha + 1e-9


def test_a_good_whole_set_says_too_little_about_its_rest() -> None:
    """Where a good part of a set is drawn, a bound of the whole covers masks that people saw."""
    size, asked, alpha = 60, 30, 0.05
    k, wrong = np.arange(asked + 1), {rest_p_value: 0.0, whole_p_value: 0.0}
    for p_value in wrong:
        passed = [p_value(int(y), asked, size, share=0.85, noise=EXACT) <= alpha for y in k]
        for good in range(size + 1):
            rest_false = good - k < 0.85 * (size - asked) - 1e-9
            chance = stats.hypergeom.pmf(k, size, good, asked)[rest_false & passed].sum()
            wrong[p_value] = max(wrong[p_value], float(chance))
    assert wrong[rest_p_value] <= alpha < wrong[whole_p_value]


def test_the_p_value_is_no_larger_than_it_must_be() -> None:
    """For some number of good masks the probability is reached."""
    size, asked, yes = 40, 12, 12
    for noise in (EXACT, NOISY):
        p = rest_p_value(yes, asked, size, share=0.85, noise=noise)
        told = _yes_given_good(asked, noise)[:, yes:].sum(axis=1)
        k, reached = np.arange(asked + 1), 0.0
        for good in range(size + 1):
            inside = stats.hypergeom.pmf(k, size, good, asked)
            reached = max(reached, float((inside * told)[good - k < 0.85 * (size - asked)].sum()))
        assert p == pytest.approx(reached, rel=1e-9)


def test_people_who_say_yes_more_readily_prove_less() -> None:
    """So the cautious end of the noise has the higher sensitivity and the lower specificity."""
    for p_value in (rest_p_value, whole_p_value):
        for sensitivity, specificity in ((0.95, 0.9), (0.9, 0.8)):
            p = p_value(
                56, 60, 400, share=0.85, noise=Noise(sensitivity=sensitivity, specificity=specificity)
            )
            for worse in (
                Noise(sensitivity=sensitivity + 0.03, specificity=specificity),
                Noise(sensitivity=sensitivity, specificity=specificity - 0.1),
            ):
                assert p_value(56, 60, 400, share=0.85, noise=worse) > 1.2 * p
        # nearly exact answers give nearly the exact value: two ways to compute the same
        almost = Noise(sensitivity=1.0 - 1e-9, specificity=1.0 - 1e-9)
        exact = p_value(58, 60, 400, share=0.85, noise=EXACT)
        assert p_value(58, 60, 400, share=0.85, noise=almost) == pytest.approx(exact, rel=1e-4)


def test_the_whole_set_agrees_with_the_interval_of_the_hypergeometric() -> None:
    for yes in range(31):
        lower = float(hypergeometric_interval(yes, 30, 90, alpha=0.05)[0])
        passed = whole_p_value(yes, 30, 90, share=0.8, noise=EXACT) <= 0.05
        assert passed == (lower >= 0.8 - 1e-12)


def test_more_yes_prove_more_and_the_ends_are_sound() -> None:
    for noise in (EXACT, NOISY):
        p = [rest_p_value(k, 30, 200, share=0.85, noise=noise) for k in range(31)]
        assert (np.diff(p) <= 1e-12).all()
        assert rest_p_value(0, 0, 50, share=0.85, noise=noise) == 1.0
        assert rest_p_value(20, 50, 50, share=0.85, noise=noise) < 1e-100  # no mask is left unseen
        assert whole_p_value(0, 0, 50, share=0.85, noise=noise) == 1.0
    for wrong in ((3, 2, 10), (-1, 2, 10), (2, 11, 10)):
        with pytest.raises(ValueError, match="needs 0 <= yes"):
            rest_p_value(*wrong, share=0.85, noise=EXACT)
        with pytest.raises(ValueError, match="needs 0 <= yes"):
            whole_p_value(*wrong, share=0.85, noise=EXACT)
