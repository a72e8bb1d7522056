"""Several hypotheses at once: fixed sequences, fallback, e-BH, and conformal selection."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["conformal_selection", "e_bh", "fallback", "fixed_sequence"]


def fixed_sequence(log_e_values: npt.ArrayLike, *, alpha: float) -> int:
    """Learn then test (2110.01052): number of leading hypotheses rejected before the first that is not.

    The order must be fixed before the answers behind the e-values are seen; then the probability to reject
    any true hypothesis is at most ``alpha``, without a correction for their number. The largest e-value that
    a hypothesis reached so far may be handed in.
    """
    failed = np.flatnonzero(~(np.asarray(log_e_values, np.float64) >= -np.log(alpha)))
    return int(failed[0]) if len(failed) else len(np.atleast_1d(log_e_values))


def fallback(log_e_values: npt.ArrayLike, weights: npt.ArrayLike, *, alpha: float) -> npt.NDArray[np.bool_]:
    """Fixed sequence with several starts (fallback procedure, Wiens 2003).

    Every hypothesis owns a share of the error, and one that is rejected hands all it had to the next. One
    that is not takes its share with it, so a later start can still be made. The order and the weights must
    be fixed before the answers are seen; then the probability to reject any true hypothesis is at most
    ``alpha``, under any dependence, and the largest e-value that each reached so far may be handed in.

    Parameters
    ----------
    log_e_values : (m,), weights : (m,) shares of the error, not negative, of sum at most 1

    Returns
    -------
    (m,) bool, hypotheses rejected
    """
    log_e = np.asarray(log_e_values, np.float64)
    share = np.asarray(weights, np.float64)
    if share.shape != log_e.shape or (share < 0).any() or share.sum() > 1.0 + 1e-9:
        raise ValueError("fallback needs one weight per hypothesis, none negative, of sum 1 or less")
    rejected = np.zeros(len(log_e), bool)
    own = 0.0
    for k, (evidence, weight) in enumerate(zip(log_e.tolist(), share.tolist(), strict=True)):
        own += weight
        rejected[k] = own > 0.0 and evidence >= -np.log(alpha * own)
        if not rejected[k]:
            own = 0.0
    return rejected


def e_bh(e_values: npt.ArrayLike, *, alpha: float) -> npt.NDArray[np.bool_]:
    """Hypotheses rejected by e-BH (Wang & Ramdas 2022): FDR at most ``alpha`` under any dependence. (m,)
    bool.
    """
    e = np.asarray(e_values, np.float64)
    m = len(e)
    if not m:
        return np.zeros(0, bool)
    ordered = np.sort(e)[::-1]
    enough = np.flatnonzero(ordered * np.arange(1, m + 1) >= m / alpha)
    return e >= ordered[enough[-1]] if len(enough) else np.zeros(m, bool)


def conformal_selection(
    calibration_score: npt.ArrayLike,
    calibration_bad: npt.ArrayLike,
    score: npt.ArrayLike,
    *,
    alpha: float,
) -> npt.NDArray[np.bool_]:
    """Items selected with a false discovery rate of at most ``alpha`` (Jin & Candès 2023).

    The p-value of an item is its rank among the bad calibration items (which must be exchangeable with the
    items and unseen by the score); Benjamini-Hochberg selects. Note the promise: the *expected* share of bad
    items, not a share that holds with a given probability.

    Parameters
    ----------
    calibration_score : (c,), calibration_bad : (c,) bool, score : (n,); higher = better

    Returns
    -------
    (n,) bool. Time O((c + n) log (c + n)).
    """
    bad = np.asarray(calibration_bad, bool)
    negatives = np.sort(np.asarray(calibration_score, np.float64)[bad])
    x = np.asarray(score, np.float64)
    n = len(x)
    if not n:
        return np.zeros(0, bool)
    at_least = len(negatives) - np.searchsorted(negatives, x, side="left")
    p = (1.0 + at_least) / (len(bad) + 1.0)
    ordered = np.sort(p)
    passing = np.flatnonzero(ordered <= alpha * np.arange(1, n + 1) / n)
    return p <= ordered[passing[-1]] if len(passing) else np.zeros(n, bool)
