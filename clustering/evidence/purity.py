"""Tests of the purity of a finite set of masks, from a random sample of it.

A set of M masks holds G good ones. A simple random sample of n is asked about, without replacement. Two
statements are tested:

* about the *rest*: the masks of the set that were not asked about hold at least a share q of good ones,
* about the *whole* set.

The p-value of an outcome is the largest probability, over all G, that the statement is false and that the
answers look at least as good. So whatever G is, a false statement is accepted with probability at most alpha
by whoever accepts at p-values up to alpha: "false" may depend on the sample, as it does for the rest.

Assumptions: the sample was drawn at random from the whole set, and the set was fixed before; verdicts are
true, or each errs independently, and neither a good nor a bad mask gets a yes more often than stated. People
who miss fewer good masks than stated would make a set look better than it is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special, stats

from clustering.arrays import Floats, Ints
from clustering.evidence.answer_noise import Noise

__all__ = ["rest_p_value", "whole_p_value"]

_SMALLEST = 1e-300


def rest_p_value(yes: int, asked: int, size: int, *, share: float, noise: Noise) -> float:
    """P-value against "of the masks that were not asked about, less than ``share`` are good".

    Parameters
    ----------
    yes : yes answers in the sample
    asked : masks in the sample; the rest is ``size - asked``
    size : masks in the set
    share : promised share of good masks
    noise : how answers err

    Returns
    -------
    In (0, 1]; 1 where nothing was asked. An empty rest keeps every promise. Time O(1) for exact answers,
    O(asked²) otherwise.

    Raises
    ------
    ValueError : not 0 <= yes <= asked <= size
    """
    _check(yes, asked, size)
    if not asked:
        return 1.0
    rest = size - asked
    if not rest:
        return _SMALLEST
    # the statement is false if and only if the rest holds at most this many good masks
    too_few = int(np.ceil(share * rest - 1e-9)) - 1
    if too_few < 0:
        return _SMALLEST
    if noise.exact:
        # false and k or more yes: G - k <= too_few, so the worst G is the largest that can be false
        good = min(too_few + yes, size)
        return _within(float(stats.hypergeom.sf(yes - 1, size, good, asked)))
    return _within(_worst(yes, asked, size, too_few, noise))


def whole_p_value(yes: int, asked: int, size: int, *, share: float, noise: Noise) -> float:
    """P-value against "less than ``share`` of the whole set are good"; parameters as ``rest_p_value``."""
    _check(yes, asked, size)
    good = int(np.ceil(share * size - 1e-9)) - 1
    if not asked:
        return 1.0
    if good < 0:
        return _SMALLEST
    if noise.exact:
        return _within(float(stats.hypergeom.sf(yes - 1, size, good, asked)))
    inside = np.arange(asked + 1)
    chance = stats.hypergeom.pmf(inside, size, good, asked)
    return _within(float(chance @ _tail(yes, asked, noise)))


def _check(yes: int, asked: int, size: int) -> None:
    if not 0 <= yes <= asked <= size:
        raise ValueError(f"{yes} yes of {asked} answers in a set of {size}: needs 0 <= yes <= asked <= size")


def _within(p: float) -> float:
    return min(max(p, _SMALLEST), 1.0)


def _worst(yes: int, asked: int, size: int, too_few: int, noise: Noise) -> float:
    """Largest probability over G of "at least ``yes`` yes, and at most ``too_few`` good ones in the rest".

    With X good masks in the sample, the rest holds G - X of them. Up to G = too_few every X leaves the
    statement false, and the probability grows with G. From too_few + asked on none does.
    """
    good = too_few + np.arange(min(asked, size - too_few) + 1)
    inside = np.arange(asked + 1)
    # hypergeometric probabilities of all G at once: what is left for the rest, G - X, stands in a table
    left = np.arange(too_few - asked, too_few + len(good))
    of_left = -_log_factorial(left) - _log_factorial(size - asked - left)
    of_good = _log_factorial(good) + _log_factorial(size - good)
    of_inside = -_log_factorial(inside) - _log_factorial(asked - inside)
    place = good[:, None] - inside[None, :] - left[0]
    log_chance = of_left[place] + of_good[:, None] + of_inside[None, :]
    log_all = _log_factorial(np.array([size, asked, size - asked])) @ np.array([1.0, -1.0, -1.0])
    is_false = left[place] <= too_few
    return float((np.exp(log_chance - log_all) * is_false @ _tail(yes, asked, noise)).max())


def _log_factorial(n: Ints) -> Floats:
    """Log of n!; +inf below 0, so that what needs it has the probability 0."""
    return np.where(n >= 0, special.gammaln(np.maximum(n, 0) + 1.0), np.inf)


@lru_cache(maxsize=256)
def _tail(yes: int, asked: int, noise: Noise) -> Floats:
    """(asked + 1,) probability of ``yes`` or more yes where 0, 1, … of the masks asked about are good."""
    x = np.arange(asked + 1)[:, None]
    true_yes = np.arange(asked + 1)[None, :]
    hits = stats.binom.pmf(true_yes, x, noise.sensitivity)
    wrong = stats.binom.sf(yes - 1 - true_yes, asked - x, 1.0 - noise.specificity)
    return np.asarray((hits * wrong).sum(axis=1))
