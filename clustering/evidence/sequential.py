"""Tests and bounds that stay valid however often one looks: SPRT, e-values, betting.

All rest on Ville's inequality (1939): a fair game that starts with the wealth 1 ever reaches 1/alpha with
probability at most alpha. Each function plays a game that is fair (or worse) under its null hypothesis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Floats

__all__ = ["BETS", "betting_log_wealth", "betting_lower_bound", "binomial_log_e_value"]


def binomial_log_e_value(yes: npt.ArrayLike, asked: npt.ArrayLike, *, share: float) -> Floats:
    """Log of an e-value against H0 "the share of yes is at most ``share``" (Robbins 1970).

    It is the likelihood ratio to H0, averaged evenly over the shares above it.

    ``E = ∫_share^1 θ^k (1-θ)^(n-k) dθ / ((1-share) share^k (1-share)^(n-k))``. Under H0 the probability that
    E ever reaches 1/alpha is at most alpha. Assumes independent answers. Against H0 "at least ``share``" call
    ``binomial_log_e_value(asked - yes, asked, share=1 - share)``.

    Parameters
    ----------
    yes, asked : integers that broadcast, 0 <= yes <= asked
    share : strictly between 0 and 1

    Returns
    -------
    float64, finite

    Raises
    ------
    ValueError : share is out of its range
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share is {share}: it must lie strictly between 0 and 1")
    k, n = np.broadcast_arrays(np.asarray(yes, np.float64), np.asarray(asked, np.float64))
    tail = special.betaincc(k + 1.0, n - k + 1.0, share)
    slope = (n - k) / (1.0 - share) - k / share
    with np.errstate(divide="ignore", invalid="ignore"):
        log_integral = special.betaln(k + 1.0, n - k + 1.0) + np.log(tail)
        log_null = k * np.log(share) + (n - k) * np.log1p(-share)
        # where the tail underflows, the mass lies at its edge: the first term of Laplace's expansion there
        edge = log_null - np.log(np.maximum(slope, 1.0))
        result: Floats = np.where(tail > 1e-290, log_integral, edge) - log_null - np.log1p(-share)
    return result


BETS: Floats = np.array([0.03, 0.06, 0.1, 0.15, 0.2, 0.27, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 0.98])
"""Stakes of the mixture: stake u is the best bet where the mean lies that share of the way from H0 to 1."""


def betting_log_wealth(
    values: npt.ArrayLike,
    *,
    share: float,
    population: int | None = None,
    floor: float = 0.0,
    bets: Floats = BETS,
    weights: Floats | None = None,
) -> Floats:
    """Log wealth after each value when betting against H0 "the mean is at most ``share``".

    The wealth is ``∏ (1 + λ_t (x_t - m_t))`` (Waudby-Smith & Ramdas 2024, arXiv 2010.09686), here averaged
    over the fixed stakes ``λ_t = u / (m_t - floor)``. Without ``population`` the values are independent
    draws, and m_t is ``share``. With it they are drawn without replacement from a population of N, and ``m_t
    = (N·share - Σ_{s<t} x_s) / (N - t + 1)`` is the mean that H0 leaves for the rest. Under H0 the wealth
    ever reaches 1/alpha with probability at most alpha.

    Parameters
    ----------
    values : (t,) not below ``floor``, in the order in which they were drawn; no upper limit is needed
    share : mean under H0, above ``floor``
    population : number of values that the sample was drawn from without replacement; None = independent draws
    floor : least possible value
    bets : (b,) stakes u in (0, 1), fixed beforehand
    weights : (b,) how the first wealth is divided among them, fixed beforehand; None = evenly

    Returns
    -------
    (t,) float64, +inf from where H0 has become impossible. Time and memory O(t·b).

    Raises
    ------
    ValueError : a value is below ``floor``, or there are more values than the population holds
    """
    x = np.asarray(values, np.float64)
    t = len(x)
    if not t:
        return np.zeros(0)
    if x.min() < floor - 1e-9:
        raise ValueError(f"a value is {x.min():.4g}, below the floor {floor:.4g}")
    if population is None:
        m = np.full(t, float(share))
        left = m
    else:
        if t > population:
            raise ValueError(f"{t} values drawn without replacement from {population}")
        sums = np.cumsum(x)
        remaining = population - np.arange(t)
        m = (population * share - np.concatenate([[0.0], sums[:-1]])) / remaining
        # what H0 leaves for the values after this one, beyond their least possible sum
        left = population * share - sums - (remaining - 1) * floor
    gap = np.maximum(m - floor, 1e-9)
    factor = np.maximum(1.0 + bets[None, :] * ((x - m) / gap)[:, None], 0.0)
    with np.errstate(divide="ignore"):
        paths = np.cumsum(np.log(factor), axis=0)
    shares = np.full(len(bets), 1.0 / len(bets)) if weights is None else weights / weights.sum()
    wealth = _log_mean_exp(paths, shares)
    if population is not None:
        wealth[np.logical_or.accumulate(left < -1e-9)] = np.inf
    return wealth


def _log_mean_exp(logs: Floats, shares: Floats) -> Floats:
    """(t, b) logs, -inf among them → (t,) log of the mean of their exponentials, weighted with (b,) shares.

    ``scipy.special.logsumexp`` for real numbers and positive shares; policies call this in their inmost loop,
    where its checks for other kinds of numbers take most of the time.
    """
    peak = logs.max(axis=1)
    peak[np.isneginf(peak)] = 0.0
    with np.errstate(divide="ignore"):
        found: Floats = np.log(np.exp(logs - peak[:, None]) @ shares) + peak
    return found


def betting_lower_bound(
    values: npt.ArrayLike, *, alpha: float = 0.05, population: int | None = None, steps: int = 40
) -> float:
    """Lower bound of the mean of (t,) values in 0..1: the smallest share that betting has not ruled out.

    Holds at all numbers of values at once with probability at least 1 - alpha (Waudby-Smith & Ramdas 2024).
    Found by ``steps`` bisections, as the wealth falls with the share it is tested against. 0 for no values.
    ``population`` : as for ``betting_log_wealth``.
    """
    x = np.asarray(values, np.float64)
    low, high = 0.0, 1.0
    if not len(x):
        return 0.0
    for _ in range(steps):
        middle = 0.5 * (low + high)
        if betting_log_wealth(x, share=middle, population=population).max() >= -np.log(alpha):
            low = middle
        else:
            high = middle
    return low
