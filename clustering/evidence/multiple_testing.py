"""Tests of several hypotheses at once: the fallback procedure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["fallback"]


def fallback(p_values: npt.ArrayLike, weights: npt.ArrayLike, *, alpha: float) -> npt.NDArray[np.bool_]:
    """The fallback procedure (Wiens 2003): a fixed sequence with several starts.

    Every hypothesis has a share of the error. When it is rejected, the next one gets all the error it had.
    When it is not, that error is lost, and the next one starts with its own share. The order and the weights
    must be fixed before the answers are seen. Then the probability to reject any true hypothesis is at most
    ``alpha``, under any dependence.

    Parameters
    ----------
    p_values : (m,); a value that is not a number counts as no evidence
    weights : (m,) shares of the error, not negative, of sum at most 1

    Returns
    -------
    (m,) bool, hypotheses rejected

    Raises
    ------
    ValueError : the weights do not fit
    """
    p = np.asarray(p_values, np.float64)
    share = np.asarray(weights, np.float64)
    if share.shape != p.shape or (share < 0).any() or share.sum() > 1.0 + 1e-9:
        raise ValueError("fallback needs one weight per hypothesis, none negative, of sum 1 or less")
    rejected = np.zeros(len(p), bool)
    own = 0.0
    for k, (value, weight) in enumerate(zip(p.tolist(), share.tolist(), strict=True)):
        own += weight
        rejected[k] = own > 0.0 and value <= alpha * own
        if not rejected[k]:
            own = 0.0
    return rejected
