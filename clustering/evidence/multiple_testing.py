"""Tests of several hypotheses at once: fixed sequence, fallback, e-BH, conformal selection."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["conformal_selection", "e_bh", "fallback", "fixed_sequence"]


def fixed_sequence(log_e_values: npt.ArrayLike, *, alpha: float) -> int:
    """Number of hypotheses rejected, in order, before the first that is not.

    Used as in learn then test (Angelopoulos et al. 2021, arXiv 2110.01052). The order must be fixed before
    the answers behind the e-values are seen. Then the probability to reject any true hypothesis is at most
    ``alpha``, without a correction for their number. For each hypothesis the largest of its e-values so far
    may be given.

    Parameters
    ----------
    log_e_values : (m,); a value that is not a number counts as no evidence
    """
    failed = np.flatnonzero(~(np.asarray(log_e_values, np.float64) >= -np.log(alpha)))
    return int(failed[0]) if len(failed) else len(np.atleast_1d(log_e_values))


def fallback(log_e_values: npt.ArrayLike, weights: npt.ArrayLike, *, alpha: float) -> npt.NDArray[np.bool_]:
    """The fallback procedure (Wiens 2003): a fixed sequence with several starts.

    Every hypothesis has a share of the error. When it is rejected, the next one gets all the error it had.
    When it is not, that error is lost, and the next one starts with its own share. The order and the weights
    must be fixed before the answers are seen. Then the probability to reject any true hypothesis is at most
    ``alpha``, under any dependence. For each hypothesis the largest of its e-values so far may be given.

    Parameters
    ----------
    log_e_values : (m,)
    weights : (m,) shares of the error, not negative, of sum at most 1

    Returns
    -------
    (m,) bool, hypotheses rejected

    Raises
    ------
    ValueError : the weights do not fit
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
    """(m,) bool: hypotheses rejected by e-BH (Wang & Ramdas 2022).

    The false discovery rate is at most ``alpha`` under any dependence of the (m,) e-values.
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

    The p-value of an item is its rank among the bad calibration items; the Benjamini-Hochberg procedure
    (1995) selects. Calibration items must be exchangeable with the items and must not have been used to fit
    the score. The promise is about the *expected* share of bad items: in a single use it can be larger.

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
