"""An interval for a share of things that come in groups: masks of one picture are good or bad together.

A share over groups of unequal size is a ratio of two sums. Its variance comes from the groups (linearised
ratio estimator: Cochran 1977, section 6.3), which says how many independent things the sample is worth. The
interval is that of Clopper and Pearson at this number, with Student's quantile for few groups (Korn and
Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts estimated
from survey data", Survey Methodology 24). So a sample without any failure still gets an interval.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from clustering.arrays import Floats

__all__ = ["clustered_interval"]


def clustered_interval(
    good: npt.ArrayLike, count: npt.ArrayLike, *, confidence: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Share of good things and its two-sided interval, column by column.

    Parameters
    ----------
    good : (groups, k) how many are good in each group
    count : (groups, k) how many there are; groups without any do not count
    confidence : of the interval, in (0, 1)

    Returns
    -------
    share, lower, upper : (k,) float64; NaN, 0 and 1 where there is nothing, 0 and 1 as bounds of one group

    Raises
    ------
    ValueError : the tables differ in shape, or not 0 <= good <= count
    """
    yes, n = np.atleast_2d(np.asarray(good, np.float64)), np.atleast_2d(np.asarray(count, np.float64))
    if yes.shape != n.shape:
        raise ValueError(f"good is {yes.shape} and count {n.shape}: they must have the same shape")
    if (yes < 0).any() or (yes > n).any():
        raise ValueError("clustered_interval needs 0 <= good <= count")
    total = n.sum(axis=0)
    groups = (n > 0).sum(axis=0)
    share = np.full(len(total), np.nan)
    np.divide(yes.sum(axis=0), total, out=share, where=total > 0)
    known = np.where(total > 0, share, 0.5)
    degrees = np.maximum(groups - 1, 1)
    # few groups without a failure say little about how failures come: a fifth of a group of usual size, half
    # of it good, is added to their spread
    usual = total / np.maximum(groups, 1)
    squares = ((yes - known * n) ** 2).sum(axis=0) + 0.2 * ((0.5 - known) * usual) ** 2
    spread = squares * (groups / degrees) / np.maximum(total, 1.0) ** 2
    worth = np.divide(known * (1.0 - known), spread, out=total.copy(), where=spread > 0)
    whole = _worth_of_whole_groups(n, total)
    worth = np.where((known == 0.0) | (known == 1.0), whole, np.maximum(worth, whole))
    tail = (1.0 - confidence) / 2.0
    few = (stats.t.ppf(tail, np.maximum(total - 1, 1)) / stats.t.ppf(tail, degrees)) ** 2
    worth = np.clip(worth * few, 0.0, total)
    k = known * worth
    lower = np.where(k > 0, special.betaincinv(np.maximum(k, 1e-300), worth - k + 1.0, tail), 0.0)
    upper = np.where(k < worth, special.betaincinv(k + 1.0, np.maximum(worth - k, 1e-300), 1.0 - tail), 1.0)
    unknown = (groups < 2) | ~(worth > 0)
    return share, np.where(unknown, 0.0, lower), np.where(unknown, 1.0, upper)


def _worth_of_whole_groups(count: Floats, total: Floats) -> Floats:
    """(k,) how many groups of equal size the sample is worth (Kish 1965), were groups good as a whole."""
    squares = (count**2).sum(axis=0)
    worth: Floats = np.divide(total**2, squares, out=np.zeros(len(total)), where=squares > 0)
    return worth
