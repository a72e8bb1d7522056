"""Verdicts -> bounds -> evidence, for numbers that people act upon (algorithms §6.1, §6.2).

Bounds of a fixed number of answers: Clopper-Pearson, hypergeometric, empirical Bernstein. Tests that stay
valid however often one looks: SPRT, the uniform-mixture e-process, betting. Tests of many hypotheses: fixed
sequence (learn then test), e-BH, conformal selection. Noisy answers: Rogan-Gladen.

All functions take scalars or arrays, broadcast, and work in logarithms where products would overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

__all__ = [
    "BETS",
    "Noise",
    "Sprt",
    "bernstein_interval",
    "betting_log_wealth",
    "betting_lower_bound",
    "binomial_log_e_value",
    "clopper_pearson",
    "conformal_selection",
    "e_bh",
    "fallback",
    "fixed_sequence",
    "hypergeometric_interval",
    "noise_from_gold",
    "rogan_gladen",
]

Floats = npt.NDArray[np.float64]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprt:
    """Wald's sequential test of share ``p0`` (bad) against ``p1`` (good).

    ``alpha``: probability to accept at p0; ``beta``: to reject at p1. Both hold up to the overshoot, on the
    safe side for the thresholds used here: P(ever accept | p0) <= alpha exactly.
    """

    p0: float = 0.75
    p1: float = 0.90
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.p0 < self.p1 < 1.0:
            raise ValueError(f"p0 {self.p0} and p1 {self.p1} must satisfy 0 < p0 < p1 < 1")

    def log_ratio(self, yes: npt.ArrayLike, asked: npt.ArrayLike) -> Floats:
        """Log likelihood ratio of p1 to p0."""
        k, n = np.asarray(yes, np.float64), np.asarray(asked, np.float64)
        ratio: Floats = k * np.log(self.p1 / self.p0) + (n - k) * np.log((1.0 - self.p1) / (1.0 - self.p0))
        return ratio

    def decide(self, yes: npt.ArrayLike, asked: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """+1 accept, -1 reject, 0 go on asking."""
        ratio = self.log_ratio(yes, asked)
        # 1/alpha instead of Wald's (1-beta)/alpha: Ville's inequality makes the error exact, at a small price
        accept, reject = ratio >= -np.log(self.alpha), ratio <= np.log(self.beta)
        return np.asarray(accept.astype(np.int8) - reject.astype(np.int8))


def binomial_log_e_value(yes: npt.ArrayLike, asked: npt.ArrayLike, *, share: float) -> Floats:
    """Log of the e-process against H0 "the share of yes is at most ``share``", uniform mixture over (share,
    1).

    ``E = ∫_share^1 θ^k (1-θ)^(n-k) dθ / ((1-share) share^k (1-share)^(n-k))``. Under H0 the probability that
    E ever reaches 1/alpha is at most alpha, however often one looks. The mirror image, against H0 "at least
    share", is ``binomial_log_e_value(asked - yes, asked, share=1 - share)``.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share is {share}: it must lie strictly between 0 and 1")
    k, n = np.broadcast_arrays(np.asarray(yes, np.float64), np.asarray(asked, np.float64))
    tail = special.betaincc(k + 1.0, n - k + 1.0, share)
    slope = (n - k) / (1.0 - share) - k / share
    with np.errstate(divide="ignore", invalid="ignore"):
        log_integral = special.betaln(k + 1.0, n - k + 1.0) + np.log(tail)
        log_null = k * np.log(share) + (n - k) * np.log1p(-share)
        # where the tail underflows all the mass sits at the edge: first term of Laplace's expansion there
        edge = log_null - np.log(np.maximum(slope, 1.0))
        result: Floats = np.where(tail > 1e-290, log_integral, edge) - log_null - np.log1p(-share)
    return result


BETS: Floats = np.array([0.03, 0.06, 0.1, 0.15, 0.2, 0.27, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 0.98])
"""Stakes of the mixture: u = share of the way from the null share to 1 on which a stake is the best bet."""


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

    Waudby-Smith & Ramdas (2010.09686): wealth ``∏ (1 + λ_t (x_t - m_t))``, here the average over the fixed
    stakes ``λ_t = u / (m_t - floor)``. Without ``population`` m_t is ``share`` (independent draws); with it
    the values are drawn without replacement from that many, and ``m_t = (N·share - Σ_{s<t} x_s) / (N - t +
    1)`` is what the rest could still hold under H0. Under H0 the wealth ever reaches 1/alpha with
    probability at most alpha.

    Parameters
    ----------
    values : (t,) not below ``floor``, in the order in which they were drawn; no upper limit is needed
    share : null mean, above ``floor``
    bets, weights : stakes u in (0, 1) and how the first wealth is divided among them, fixed beforehand; None
        = evenly

    Returns
    -------
    (t,) float64, +inf from where H0 has become impossible. Time and memory O(t · len(bets)).

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
    wealth: Floats = special.logsumexp(paths, axis=1, b=shares)
    if population is not None:
        wealth[np.logical_or.accumulate(left < -1e-9)] = np.inf
    return wealth


def betting_lower_bound(
    values: npt.ArrayLike, *, alpha: float = 0.05, population: int | None = None, steps: int = 40
) -> float:
    """Anytime lower bound of the mean: the smallest share that betting has not ruled out so far.

    Holds at all numbers of values at once with probability 1 - alpha. Bisection, as the wealth falls with the
    share it is tested against.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How verdicts err: P(yes | good) = ``sensitivity``, P(no | bad) = ``specificity``."""

    sensitivity: float = 1.0
    specificity: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 < self.sensitivity <= 1.0 and 0.0 < self.specificity <= 1.0):
            raise ValueError(
                f"sensitivity {self.sensitivity} and specificity {self.specificity} must lie in (0, 1]"
            )
        if self.sensitivity + self.specificity <= 1.0:
            raise ValueError(
                f"sensitivity {self.sensitivity} + specificity {self.specificity} is 1 or less: "
                "such verdicts say nothing about the masks"
            )

    @property
    def exact(self) -> bool:
        return self.sensitivity == 1.0 and self.specificity == 1.0

    def observed(self, share: npt.ArrayLike) -> Floats:
        """Share of yes to expect from a true share."""
        q = np.asarray(share, np.float64)
        return q * self.sensitivity + (1.0 - q) * (1.0 - self.specificity)


def rogan_gladen(observed: npt.ArrayLike, noise: Noise) -> Floats:
    """True share behind an observed share of yes, clipped to 0..1 (Rogan & Gladen 1978)."""
    o = np.asarray(observed, np.float64)
    return np.clip((o + noise.specificity - 1.0) / (noise.sensitivity + noise.specificity - 1.0), 0.0, 1.0)


def noise_from_gold(
    good_yes: int, good: int, bad_no: int, bad: int, *, alpha: float = 0.05
) -> tuple[Noise, Noise]:
    """Estimate, and the pessimistic end, of how verdicts err, from items of known truth.

    Acceptance tests must use the second value: the sensitivity at its upper and the specificity at its lower
    bound (each at error alpha/2) is the noise under which an observed share of yes promises least.

    Parameters
    ----------
    good_yes, good : yes among the good gold items, their number; bad_no, bad : no among the bad ones

    Raises
    ------
    ValueError : there is too little gold, or the verdicts are too bad, to say anything
    """
    _, upper = clopper_pearson(good_yes, good, alpha=alpha / 2.0)
    lower, _ = clopper_pearson(bad_no, bad, alpha=alpha / 2.0)
    sensitivity, specificity = (good_yes + 0.5) / (good + 1.0), (bad_no + 0.5) / (bad + 1.0)
    if float(lower) <= 0.0 or sensitivity + specificity <= 1.0 or float(upper + lower) <= 1.0:
        raise ValueError(
            f"{good_yes} of {good} good and {bad_no} of {bad} bad gold items were recognised: "
            "too little to accept anything on; add gold items or workers"
        )
    estimate = Noise(sensitivity=sensitivity, specificity=specificity)
    return estimate, Noise(sensitivity=float(upper), specificity=float(lower))
