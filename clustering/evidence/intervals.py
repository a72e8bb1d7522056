"""Verdicts -> bounds -> evidence, for numbers that people act upon.

Bounds of a fixed number of answers: Clopper-Pearson, hypergeometric, empirical Bernstein. Tests that stay
valid however often one looks: SPRT, the uniform-mixture e-process, betting. Tests of many hypotheses: fixed
sequence (learn then test), e-BH, conformal selection. Noisy answers: Rogan-Gladen.

All functions take scalars or arrays, broadcast, and work in logarithms where products would overflow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from clustering.arrays import Floats

__all__ = ["bernstein_interval", "clopper_pearson", "hypergeometric_interval"]


def clopper_pearson(
    yes: npt.ArrayLike, asked: npt.ArrayLike, *, alpha: float = 0.05
) -> tuple[Floats, Floats]:
    """One-sided exact bounds of a share, each wrong with probability at most ``alpha``.

    Parameters
    ----------
    yes, asked : integers that broadcast, 0 <= yes <= asked
    alpha : error of each bound; the pair is an interval of level 1 - 2·alpha

    Returns
    -------
    lower, upper : float64; 0 and 1 where nothing was asked
    """
    k, n = np.broadcast_arrays(np.asarray(yes, np.float64), np.asarray(asked, np.float64))
    lower = np.where(k > 0, special.betaincinv(np.maximum(k, 1e-300), n - k + 1.0, alpha), 0.0)
    upper = np.where(k < n, special.betaincinv(k + 1.0, np.maximum(n - k, 1e-300), 1.0 - alpha), 1.0)
    return lower, upper


def hypergeometric_interval(
    yes: npt.ArrayLike, asked: npt.ArrayLike, size: npt.ArrayLike, *, alpha: float = 0.05
) -> tuple[Floats, Floats]:
    """One-sided exact bounds of the share of a finite set of ``size``, sampled without replacement.

    Each bound is wrong with probability at most ``alpha``. Bisection over the number of good members: O(log
    size).

    Raises
    ------
    ValueError : not 0 <= yes <= asked <= size
    """
    k, n, total = np.broadcast_arrays(*(np.asarray(a, np.int64) for a in (yes, asked, size)))
    if (k < 0).any() or (k > n).any() or (n > total).any():
        raise ValueError("hypergeometric_interval needs 0 <= yes <= asked <= size")

    def smallest_good(k: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        # the smallest number of good members under which k or more yes are not rarer than alpha
        low, high = k.copy(), total - (n - k)
        while (low < high).any():
            middle = (low + high) // 2
            plausible = stats.hypergeom.sf(k - 1, total, middle, n) > alpha
            high = np.where(plausible, middle, high)
            low = np.where(plausible, low, np.minimum(middle + 1, high))
        return low

    share = np.maximum(total, 1)
    good_lower = smallest_good(k)
    good_upper = total - smallest_good(n - k)
    return good_lower / share, np.where(total > 0, good_upper / share, 1.0)


def bernstein_interval(values: npt.ArrayLike, *, alpha: float = 0.05) -> tuple[float, float]:
    """Empirical Bernstein bounds of a mean of (n,) values in 0..1 (Maurer & Pontil 2009), ``alpha`` per side.

    Needs no shape of distribution but is loose below about 50 values. (0, 1) for fewer than 2.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    if n < 2:
        return 0.0, 1.0
    spread = np.log(2.0 / alpha)
    reach = np.sqrt(2.0 * x.var(ddof=1) * spread / n) + 7.0 * spread / (3.0 * (n - 1))
    return float(max(0.0, x.mean() - reach)), float(min(1.0, x.mean() + reach))
