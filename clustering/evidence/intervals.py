"""Bounds of a share or a mean from a fixed number of answers.

They hold at a number of answers that was chosen beforehand. Who looks after every answer and stops when the
bound looks good needs ``sequential``. All functions broadcast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from clustering.arrays import Floats

__all__ = ["clopper_pearson", "hypergeometric_interval"]


def clopper_pearson(
    yes: npt.ArrayLike, asked: npt.ArrayLike, *, alpha: float = 0.05
) -> tuple[Floats, Floats]:
    """One-sided exact bounds of a share (Clopper & Pearson 1934), at error ``alpha`` each.

    Assumes independent answers that are all yes with the same probability.

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
    """One-sided exact bounds of the share of good members of a finite set, at error ``alpha`` each.

    Assumes a simple random sample without replacement and answers without error. The bounds invert the
    hypergeometric tail by bisection over the number of good members: O(log size).

    Parameters
    ----------
    yes, asked, size : integers that broadcast, 0 <= yes <= asked <= size
    alpha : error of each bound

    Returns
    -------
    lower, upper : float64; 0 and 1 where nothing was asked

    Raises
    ------
    ValueError : not 0 <= yes <= asked <= size
    """
    k, n, total = np.broadcast_arrays(*(np.asarray(a, np.int64) for a in (yes, asked, size)))
    if (k < 0).any() or (k > n).any() or (n > total).any():
        raise ValueError("hypergeometric_interval needs 0 <= yes <= asked <= size")

    # the smallest number of good members that is not ruled out: k or more yes is likelier than alpha
    def smallest_good(k: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
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
