"""Nested sets of instances and the anytime test that certifies one of them.

The sets are fixed before any of their calibration answers is seen: instances in the order of the verifier,
cut at sizes chosen from its predictions. Calibration answers come in a random order of the loosest set, so
that those in any of the sets are a simple random sample of it. Every set is tested against "its purity is
below the promise" by betting after every answer and by exact tests at a few fixed numbers of answers, which
share the error; noisy answers by the latter alone. The sets are tested in a fixed sequence, from an easy one
towards looser ones. So the whole is wrong with probability at most alpha, at whatever moment one looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from clustering.evidence import BETS, Noise, betting_log_wealth, fixed_sequence

__all__ = ["NestedSets", "SetTest", "evaluate_sets", "nest_sets"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_CONTROL = 0.8
"""Weight of the verifier's prediction as control variate: below 1 because predictions may be overconfident.
"""
_MARGINS = np.concatenate([np.arange(0.9, 0.5, -0.1), np.arange(0.5, 0.04, -0.025), [0.04, 0.02]])
"""Predicted purity of the candidate sets, as a share of the way from the promise to 1."""
_EASE = 3.0
"""Start with a set of this many times the evidence needed."""
_OVERHEAD = 0.5
"""Evidence that dividing the error among several tests costs, in nats."""
_CHECKPOINTS = ((0.4, 0.1), (0.7, 0.2), (1.0, 0.7))
"""Shares of the planned answers at which exact tests are made, and the part of their error each may spend."""
_BETTING = 0.25
"""Part of the error that betting may spend where it runs beside the exact tests."""
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
    gain = _divergence(mean, np.full(len(mean), target)) * (mean > target) * size / size[-1]
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
    evidence = np.full((len(sets), t + 1), -np.inf)
    for k in range(len(sets)):
        inside = rank < sets.size[k]
        at = np.concatenate([[0], np.cumsum(inside)])
        gained = _checkpoints(sets, k, yes[inside], at, planned, exact=noise.exact)
        if noise.exact:
            betting = _betting(sets, k, rank[inside], yes[inside])
            gained = np.maximum(
                gained + np.log(1.0 - _BETTING), np.concatenate([[-np.inf], betting])[at] + np.log(_BETTING)
            )
        # the largest evidence reached so far counts: looking on cannot take it back
        evidence[k] = np.maximum.accumulate(gained)
    # stopping is decided at fixed numbers of answers, so that a look once closed stays closed
    stops = range(_CHECK_EVERY, t + 1, _CHECK_EVERY)
    closed = t >= planned or any(
        _stops(sets, evidence[:, c], rank[:c], yes[:c], alpha, planned) for c in stops
    )
    certified = fixed_sequence(evidence[:, t], alpha=alpha)
    if not certified:
        return SetTest(0, closed, 0, 0)
    size = int(sets.size[certified - 1])
    inside = rank < size
    return SetTest(certified=size, closed=closed, asked=int(inside.sum()), yes=int(yes[inside].sum()))


def _betting(sets: NestedSets, k: int, rank: Ints, yes: Floats) -> Floats:
    """Log wealth against set k after each answer inside it.

    The verifier's prediction is a control variate: its mean over the set is known, so subtracting its
    deviation from that mean leaves the mean of the answers and takes part of their variance.
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


def _checkpoints(sets: NestedSets, k: int, yes: Floats, at: Ints, planned: int, *, exact: bool) -> Floats:
    """Evidence of exact tests at a few numbers of answers that are fixed beforehand; constant in between.

    Much stronger than betting at the last of them. ``at`` (t+1,): how many of all answers were inside the
    set. Exact answers: hypergeometric. Noisy ones: the number of yes among n is a sum of independent trials
    whose chances differ (a hypergeometric number, thinned), so its upper tail is below the binomial one of
    the same mean from one above the mean on (Hoeffding 1956).
    """
    evidence = np.full(len(at), -np.inf)
    count = np.concatenate([[0.0], np.cumsum(yes)])
    size = int(sets.size[k])
    too_few = int(np.ceil(sets.target * size - 1e-9)) - 1
    for share, weight in _CHECKPOINTS:
        c = round(share * planned)
        if c >= len(at):
            break
        n, x = int(at[c]), float(count[at[c]])
        if exact:
            p = float(stats.hypergeom.sf(x - 1, size, too_few, n))
        else:
            p = float(stats.binom.sf(x - 1, n, sets.target)) if x >= n * sets.target + 1 else 1.0
        evidence[c:] = np.maximum(evidence[c:], np.log(weight) - np.log(max(p, 1e-300)))
    return evidence


def _stops(sets: NestedSets, evidence: Floats, rank: Ints, yes: Floats, alpha: float, planned: int) -> bool:
    """Whether everything is certified, or the planned answers cannot certify the next set."""
    k = fixed_sequence(evidence, alpha=alpha)
    if k == len(sets):
        return True
    inside = yes[rank < sets.size[k]]
    n = len(inside)
    if n < 60:
        return False
    hopeful = inside.mean() + 3.0 * inside.std() / np.sqrt(n)
    if hopeful <= sets.target:
        return True
    growth = float(_divergence(np.array(hopeful), np.array(sets.target)))
    return bool(growth * planned * sets.size[k] / sets.size[-1] < -np.log(alpha) - 1.0)
