"""Candidate sets of instances, and the test that certifies one of them.

The sets. Instances stand in the verifier's order, best first, and are cut at some thirty sizes: every set
holds the stricter ones. They are fixed before any of their calibration answers is seen.

The answers. Calibration answers are drawn in a random order of the loosest set. So those that fall into a
stricter set are a simple random sample of it.

The test. The hypothesis about a set is "what is delivered of it is less pure than promised". Two tests share
its error: an exact one when all planned answers are there, and betting after every answer (Waudby-Smith &
Ramdas 2024, arXiv 2010.09686). The sets are tested from strict to loose by the fallback procedure (Wiens
2003) with two starts: the strictest set that should pass with ease, and the one with the most evidence
expected. Together they certify a wrong set with probability at most alpha, at whatever moment one looks.

What is delivered of a set are its members without those that were found wrong. Where answers are exact, the
exact test makes use of that. Let G of the M members be good. After n answers with k yes, M - (n - k) masks
are delivered, of purity G / (M - n + k). The promise is broken if and only if G <= g(k), the largest G whose
purity is too low. The chance of k or more yes grows with G. So P(K >= k | g(k)) is at least the p-value of
the true G whenever the promise is broken, and may be used in its place. In small pools this saves about a
third of the answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from clustering.arrays import Floats, Ints
from clustering.evidence import BETS, Noise, betting_log_wealth, fallback

__all__ = ["NestedSets", "SetTest", "evaluate_sets", "nest_sets", "set_p_value"]


_CONTROL = 0.8
"""Weight of the verifier's prediction as a control variate; below 1, as predictions may be overconfident."""
_MARGINS = np.concatenate([np.arange(0.9, 0.5, -0.1), np.arange(0.5, 0.04, -0.025), [0.04, 0.02]])
"""Predicted purity of the candidate sets, as a share of the way from the promise to 1 (0 = the promise)."""
_EASE = 3.0
"""A set that should pass with ease: one that is expected to bring this many times the evidence needed."""
_FIRST_START = 0.65
"""Part of the error of the first start; the second has the rest."""
_OVERHEAD = 0.5
"""Evidence to plan for beyond what is needed, in nats: a set then passes in about four of five cases."""
_BETTING = 0.1
"""Part of the error that betting may spend where it runs beside the exact test."""
_CHECK_EVERY = 20
"""Answers between two checks whether further answers can still help."""
_EFFORTS = (0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""Numbers of calibration answers to choose from, as shares of the most that the plan allows."""
_WORTH = 1.0
"""Masks that each planned calibration answer must be expected to bring."""
_DOUBT = 0.3
"""How far off the predictions may be, in log-odds. A plan is the best on average over three cases: the
predictions as they are, lower by this much, and higher by this much."""


@dataclass(frozen=True, slots=True, eq=False)
class NestedSets:
    """Candidate sets, strictest first.

    Attributes
    ----------
    order : (M,) int64, members of the loosest set, best first
    size : (K,) int64, increasing; set k is ``order[:size[k]]``
    weight : (K,) float64, share of the error that each set starts with
    target : share of yes that the promised purity leads to
    expected : (M,) float64, predicted share of yes of each member of ``order``
    planned : calibration answers that are worth asking for, 0 = no set is likely to be certified
    likely : expected number of members of the set that those answers certify
    """

    order: Ints
    size: Ints
    weight: Floats
    target: float
    expected: Floats
    planned: int
    likely: int

    def __len__(self) -> int:
        return len(self.size)


@dataclass(frozen=True, slots=True, eq=False)
class SetTest:
    """Outcome of the test so far.

    Attributes
    ----------
    certified : number of members of the certified set, 0 = none yet
    closed : nothing more to gain from asking in this attempt
    asked, yes : answers inside the certified set
    """

    certified: int
    closed: bool
    asked: int
    yes: int


def nest_sets(
    p_yes: npt.NDArray[np.float32],
    eligible: npt.NDArray[np.bool_],
    *,
    purity: float,
    noise: Noise,
    alpha: float,
    min_set: int,
    most: int,
) -> NestedSets | None:
    """Cut the verifier's order into candidate sets; None when no set is expected to keep the promise.

    Parameters
    ----------
    p_yes : (n,) predicted P(yes); eligible : (n,) bool, instances without a verdict
    purity : promised share of good masks
    alpha : error of the test
    min_set : least number of members of a set
    most : calibration answers that may be planned; fewer are planned where the last of them bring little

    Time O(n + M log M) for M members of the loosest set.
    """
    target = float(noise.observed(purity))
    # a member that far below the target would have to be made up for by too many others
    usable = np.flatnonzero(eligible & (p_yes > target - 0.75))
    order = usable[np.argsort(-p_yes[usable], kind="stable")].astype(np.int64)
    if len(order) < min_set:
        return None
    expected = p_yes[order].astype(np.float64)
    share = np.cumsum(expected) / np.arange(1, len(order) + 1)
    ceiling = float(noise.observed(1.0))
    # the mean of the best k falls with k: the last k with a mean above a margin is the size of that set
    size = np.searchsorted(-share, -(target + _MARGINS * (ceiling - target)), side="right").astype(np.int64)
    size = np.unique(size[size >= min_set])
    if not len(size):
        return None
    shifted = [share[size - 1]]
    for shift in (-_DOUBT, _DOUBT):
        moved = special.expit(special.logit(np.clip(expected, 1e-6, 1 - 1e-6)) + shift)
        shifted.append((np.cumsum(moved) / np.arange(1, len(order) + 1))[size - 1])
    mean = np.stack(shifted)

    def evidence(planned: int, loosest: int) -> Floats:
        """(3, K) evidence to expect for each set, in nats, after that many answers from the loosest one."""
        asked = planned * np.minimum(size / size[loosest], 1.0)
        # members found wrong are not delivered, which lowers what the others must reach
        needed = target * (1.0 - asked * (1.0 - mean) / size) if noise.exact else np.full_like(mean, target)
        gain: Floats = asked * _divergence(mean, needed) * (mean > needed)
        gain[:, loosest + 1 :] = 0.0
        return gain

    def likely(planned: int, loosest: int) -> Floats:
        """(3,) size of the largest set that would be certified, for each shift of the predictions."""
        enough = evidence(planned, loosest) >= _OVERHEAD - np.log(alpha)
        return np.asarray((enough * size).max(axis=1), np.float64)

    best, planned, loosest = 0.0, 0, len(size) - 1
    for last in range(len(size)):
        for effort in _EFFORTS:
            answers = min(round(effort * most), int(size[last]))
            worth = float(likely(answers, last).mean()) - _WORTH * answers
            if worth > best:
                best, planned, loosest = worth, answers, last
    found = float(likely(planned, loosest).mean())
    size, gain = size[: loosest + 1], evidence(max(planned, 1), loosest)[0, : loosest + 1]
    # First start: the strictest set that should pass with ease; when it does, looser ones that follow cost
    # nothing. Predictions can be wrong: should it fail, the second start is left.
    easy = np.flatnonzero(gain >= -_EASE * np.log(alpha))
    first = min(int(easy[0]) if len(easy) else len(size), int(np.argmax(gain)))
    weight = np.zeros(len(size))
    weight[first] += _FIRST_START
    weight[np.argmax(gain)] += 1.0 - _FIRST_START
    return NestedSets(
        order=order[: size[-1]],
        size=size[first:],
        weight=weight[first:],
        target=target,
        expected=expected[: size[-1]],
        planned=planned,
        likely=round(found),
    )


def _divergence(p: Floats, q: Floats) -> Floats:
    """Kullback-Leibler divergence of two shares, in nats: evidence per answer."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    result: Floats = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return result


def _stakes(expected: float, target: float) -> Floats:
    """(len(BETS),) weights of the stakes: half is spread evenly, half lies around the stake that suits the
    predicted purity.
    """
    best = max((expected - target) / (1.0 - target), BETS[0])
    near = np.exp(-0.5 * (np.log(BETS / best) / 0.5) ** 2)
    return np.asarray(0.5 / len(BETS) + 0.5 * near / near.sum())


def evaluate_sets(sets: NestedSets, rank: Ints, yes: Floats, *, noise: Noise, alpha: float) -> SetTest:
    """Test the sets with the answers known so far.

    Parameters
    ----------
    rank : (t,) int64, places in ``sets.order`` of the drawn members, in the order of the draw
    yes : (t,) 0 or 1
    noise : how verdicts err; alpha : error of the whole test

    Time O(K · t · bets) for K sets.
    """
    t = len(rank)
    evidence = np.full((len(sets), t + 1), -np.inf)
    for k in range(len(sets)):
        inside = rank < sets.size[k]
        if noise.exact:
            at = np.concatenate([[0], np.cumsum(inside)])
            betting = _betting(sets, k, rank[inside], yes[inside]) + np.log(_BETTING)
            # the largest evidence reached so far counts: further answers cannot take it back
            evidence[k] = np.maximum.accumulate(np.concatenate([[-np.inf], betting])[at])
        if t >= sets.planned:
            first = inside[: sets.planned]
            spent = np.log(1.0 - _BETTING) if noise.exact else 0.0
            gained = spent - np.log(set_p_value(sets, k, yes[: sets.planned][first], exact=noise.exact))
            evidence[k, sets.planned :] = np.maximum(evidence[k, sets.planned :], gained)
    # stopping is decided at fixed numbers of answers, so that an attempt once closed stays closed
    stops = range(_CHECK_EVERY, t + 1, _CHECK_EVERY)
    closed = t >= sets.planned or any(_stops(sets, evidence[:, c], rank[:c], yes[:c], alpha) for c in stops)
    certified = np.flatnonzero(fallback(evidence[:, t], sets.weight, alpha=alpha))
    if not len(certified):
        return SetTest(0, closed, 0, 0)
    size = int(sets.size[certified[-1]])
    inside = rank < size
    return SetTest(certified=size, closed=closed, asked=int(inside.sum()), yes=int(yes[inside].sum()))


def _betting(sets: NestedSets, k: int, rank: Ints, yes: Floats) -> Floats:
    """Log wealth against set k after each answer inside it.

    The verifier's prediction serves as a control variate. Its mean over the set is known, so subtracting a
    member's deviation from that mean leaves the mean of the answers as it is and lowers their variance.
    """
    members = sets.expected[: sets.size[k]]
    control = _CONTROL * (members - members.mean())
    return betting_log_wealth(
        yes - control[rank],
        share=sets.target,
        population=len(members),
        floor=float(-control.max()),
        weights=_stakes(float(members.mean()), sets.target),
    )


def set_p_value(sets: NestedSets, k: int, yes: Floats, *, exact: bool) -> float:
    """P-value of the planned answers inside set k, against "the promise is broken".

    Exact answers: hypergeometric, at the largest number of good members that breaks the promise (see the top
    of this file). Noisy answers: the number of yes is a sum of independent trials with different chances.
    From one above its mean on, the upper tail of such a sum is at most that of the binomial distribution with
    the same mean (Hoeffding 1956).

    Parameters
    ----------
    yes : (n,) 0 or 1, answers inside the set; exact : answers are taken as true
    """
    n, count, size = len(yes), int(yes.sum()), int(sets.size[k])
    if exact:
        too_few = int(np.ceil(sets.target * (size - n + count) - 1e-9)) - 1
        p = float(stats.hypergeom.sf(count - 1, size, too_few, n))
    else:
        p = float(stats.binom.sf(count - 1, n, sets.target)) if count >= n * sets.target + 1 else 1.0
    return max(p, 1e-300)


def _stops(sets: NestedSets, evidence: Floats, rank: Ints, yes: Floats, alpha: float) -> bool:
    """Whether the loosest set is certified, or the planned answers cannot certify a further one."""
    certified = np.flatnonzero(fallback(evidence, sets.weight, alpha=alpha))
    left = slice(int(certified[-1]) + 1 if len(certified) else 0, None)
    size = sets.size[left]
    if not len(size):
        return True
    inside = rank[:, None] < size[None, :]
    n = inside.sum(axis=0)
    mean = (inside * yes[:, None]).sum(axis=0) / np.maximum(n, 1)
    hopeful = mean + 3.0 * np.sqrt(mean * (1.0 - mean) / np.maximum(n, 1))
    growth = _divergence(hopeful, np.full(len(size), sets.target)) * sets.planned * size / sets.size[-1]
    hopeless = (hopeful <= sets.target) | (growth < -np.log(alpha) - 1.0)
    return bool((hopeless & (n >= 60)).all())
