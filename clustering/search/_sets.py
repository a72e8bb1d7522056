"""Nested sets of instances and the anytime test that certifies one of them.

The sets are fixed before any of their calibration answers is seen: instances in the order of the verifier,
cut at sizes chosen from its predictions. Calibration answers come in a random order of the loosest set, so
that those in any of the sets are a simple random sample of it. Every set has its own betting process against
"its purity is below the promise"; the sets are tested in a fixed sequence, from the one with the best
predicted chance towards looser ones. Ville's inequality makes each process, and the fixed sequence all of
them together, wrong with probability at most alpha, at whatever moment one looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.evidence import BETS, Noise, betting_log_wealth, fixed_sequence

__all__ = ["NestedSets", "SetTest", "evaluate_sets", "nest_sets"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_CONTROL = 0.8
"""Weight of the verifier's prediction as control variate: below 1 because predictions may be overconfident.
"""
_NOISE_ALPHA = 0.1
"""Part of alpha spent on the chance that the noise of the verdicts is luckier than allowed for."""
_MARGINS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.29, 0.24, 0.19, 0.15, 0.11, 0.08, 0.05, 0.02])
"""Predicted purity of the candidate sets, as a share of the way from the promise to 1."""
_EASE = 3.0
"""Start with a set of this many times the evidence needed."""
_OVERHEAD = 1.5
"""Evidence that the spread of the stakes costs, in nats."""
_CHECK_EVERY = 20


@dataclass(frozen=True, slots=True, eq=False)
class NestedSets:
    """Candidate sets, strictest first.

    Attributes
    ----------
    order : (M,) int64, members of the loosest set, best first
    size : (K,) int64, increasing; set k is ``order[:size[k]]``
    target : share of yes that the promised purity leads to
    expected : (M,) float64, predicted share of yes of each member of ``order``
    likely : number of members of the loosest set that the planned answers would certify if the predictions
        were right; 0 = of none
    """

    order: Ints
    size: Ints
    target: float
    expected: Floats
    likely: int

    def __len__(self) -> int:
        return len(self.size)


@dataclass(frozen=True, slots=True, eq=False)
class SetTest:
    """Outcome of the test so far.

    Attributes
    ----------
    certified : number of members of the certified set, 0 = none yet
    closed : nothing more to gain from asking in this look
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
    planned: int,
) -> NestedSets | None:
    """Cut the verifier's order into candidate sets; None when no set is expected to keep the promise.

    Parameters
    ----------
    p_yes : (n,) predicted P(yes); eligible : (n,) bool, instances without a verdict
    planned : calibration answers to come; decides with which set the sequence starts

    Time O(n + M log M).
    """
    target = float(noise.observed(purity))
    # no set that meets the target reaches below the score at which its members would have to average it out
    usable = np.flatnonzero(eligible & (p_yes > target - 0.75))
    order = usable[np.argsort(-p_yes[usable], kind="stable")].astype(np.int64)
    if len(order) < min_set:
        return None
    expected = p_yes[order].astype(np.float64)
    share = np.cumsum(expected) / np.arange(1, len(order) + 1)
    ceiling = float(noise.observed(1.0))
    # the running mean of a falling sequence falls: the last place above each margin is the size of that set
    size = np.searchsorted(-share, -(target + _MARGINS * (ceiling - target)), side="right").astype(np.int64)
    size = np.unique(size[size >= min_set])
    if not len(size):
        return None
    mean = share[size - 1]
    null = target + _noise_allowance(noise, alpha, planned) / size
    gain = _divergence(mean, np.minimum(null, 1 - 1e-9)) * (mean > null) * size / size[-1]
    if gain.max() <= 0:
        return None
    # the strictest set that the planned answers should certify with ease: looser ones that follow cost
    # nothing when it holds, while a start that fails ends the look
    easy = np.flatnonzero(gain * planned >= -_EASE * np.log(alpha))
    first = int(easy[0]) if len(easy) else int(np.argmax(gain))
    likely = np.flatnonzero(gain * planned >= _OVERHEAD - np.log(alpha))
    return NestedSets(
        order=order[: size[-1]],
        size=size[first:],
        target=target,
        expected=expected[: size[-1]],
        likely=int(size[likely[-1]]) if len(likely) else 0,
    )


def _divergence(p: Floats, q: Floats) -> Floats:
    """Kullback-Leibler divergence of Bernoulli shares: evidence per answer."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    result: Floats = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return result


def _noise_allowance(noise: Noise, alpha: float, planned: int) -> float:
    """How much the yes among up to ``planned`` verdicts may exceed what the truth of their masks leads to.

    The test draws masks without replacement and subtracts what was drawn from what the null leaves. It sees
    verdicts, not truth; by Bernstein's maximal inequality the sum of their errors stays below this at all
    times but for a part of alpha.
    """
    if noise.exact:
        return 0.0
    variance = planned * max(
        noise.sensitivity * (1 - noise.sensitivity), noise.specificity * (1 - noise.specificity)
    )
    depth = -np.log(_NOISE_ALPHA * alpha)
    return float(np.sqrt(2.0 * variance * depth + (depth / 3.0) ** 2) + depth / 3.0)


def _stakes(expected: float, target: float) -> Floats:
    """Half of the wealth is spread evenly, half around the stake that suits the predicted purity."""
    best = max((expected - target) / (1.0 - target), BETS[0])
    near = np.exp(-0.5 * (np.log(BETS / best) / 0.5) ** 2)
    return np.asarray(0.5 / len(BETS) + 0.5 * near / near.sum())


def evaluate_sets(
    sets: NestedSets, rank: Ints, yes: Floats, *, noise: Noise, alpha: float, planned: int
) -> SetTest:
    """Test the sets with the answers known so far.

    Parameters
    ----------
    rank : (t,) int64, places in ``sets.order`` of the drawn members, in the order of the draw
    yes : (t,) 0 or 1
    planned : most answers of this look; for stopping early where they cannot suffice

    Time O(K · t · bets).
    """
    t, planned = len(rank), min(planned, len(sets.order))
    spent = alpha if noise.exact else (1.0 - _NOISE_ALPHA) * alpha
    allowance = _noise_allowance(noise, alpha, planned)
    evidence = np.full((len(sets), t + 1), -np.inf)
    processes = []
    for k in range(len(sets)):
        inside = rank < sets.size[k]
        members = sets.expected[: sets.size[k]]
        control = _CONTROL * (members - members.mean())
        values = yes[inside] - control[rank[inside]]
        wealth = betting_log_wealth(
            values,
            share=sets.target,
            population=len(members),
            floor=float(-control.max()),
            allowance=allowance,
            weights=_stakes(float(members.mean()), sets.target),
        )
        at = np.concatenate([[0], np.cumsum(inside)])
        # the largest evidence reached so far counts: looking on cannot take it back
        reached = np.maximum.accumulate(np.concatenate([[-np.inf], wealth]))
        evidence[k] = reached[at]
        processes.append((values, np.concatenate([[0.0], wealth]), at))
    # stopping is decided at fixed numbers of answers, so that a look once closed stays closed
    stops = (c for c in range(_CHECK_EVERY, t + 1, _CHECK_EVERY))
    closed = t >= planned or any(
        _stops(sets, evidence[:, c], [(v[: at[c]], w[at[c]]) for v, w, at in processes], c, spent, planned)
        for c in stops
    )
    certified = fixed_sequence(evidence[:, t], alpha=spent)
    if not certified:
        return SetTest(0, closed, 0, 0)
    size = int(sets.size[certified - 1])
    inside = rank < size
    return SetTest(certified=size, closed=closed, asked=int(inside.sum()), yes=int(yes[inside].sum()))


def _stops(
    sets: NestedSets,
    evidence: Floats,
    processes: list[tuple[Floats, float]],
    asked: int,
    alpha: float,
    planned: int,
) -> bool:
    """Whether everything is certified, or the planned answers cannot certify the next set."""
    k = fixed_sequence(evidence, alpha=alpha)
    if k == len(sets):
        return True
    values, wealth = processes[k]
    t = len(values)
    if t < 60:
        return False
    hopeful = values.mean() + 3.0 * values.std() / np.sqrt(t)
    null = sets.target
    growth = float(_divergence(np.array(hopeful), np.array(null))) if hopeful > null else 0.0
    reachable = wealth + growth * (planned - asked) * float(sets.size[k] / sets.size[-1])
    return bool(reachable < -np.log(alpha))
