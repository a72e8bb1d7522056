"""Candidate sets of masks that nobody has seen, and the test that certifies one of them.

The sets. Instances stand in the verifier's order, best first, and are cut at some thirty sizes: every set
holds the stricter ones. They are fixed before any of their calibration answers is seen.

The answers. Calibration answers are drawn in a random order of the loosest set. So those that fall into a
stricter set are a simple random sample of it.

The test. The hypothesis about a set is "of its masks that were not drawn, less than the promised share is
good" (``clustering.evidence.purity``). The sets are tested from strict to loose by the fallback procedure
(Wiens 2003) with two starts: the strictest set that should pass with ease, and the one with the most evidence
expected. The answers are read at two or three fixed numbers, the stages, which share the error. Together they
certify a wrong set with probability at most alpha, however often one calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Bools, Floats, Ints
from clustering.evidence import Noise, fallback, rest_p_value
from clustering.search._plan import (
    ANSWER_WORTH,
    BELIEF,
    DOUBT,
    EASE,
    EFFORTS,
    FIRST_START,
    MARGINS,
    MIN_SET,
    OVERHEAD,
    STAGES,
    Terms,
)

__all__ = ["NestedSets", "SetTest", "nest_sets", "test_sets"]


@dataclass(frozen=True, slots=True, eq=False)
class NestedSets:
    """Candidate sets, strictest first.

    Attributes
    ----------
    order : (M,) int64, members of the loosest set, best first
    size : (K,) int64, increasing; set k is ``order[:size[k]]``
    weight : (K,) float64, share of the error that each set starts with
    expected : (K,) float64, predicted share of good members of each set
    stages : numbers of calibration answers at which the sets are tested, increasing; empty = no set is
        likely to be certified
    likely : expected number of members that are certified without being seen
    hoped : members of the largest set that seems to keep the promise, tested or not
    """

    order: Ints
    size: Ints
    weight: Floats
    expected: Floats
    stages: tuple[int, ...]
    likely: int
    hoped: int

    def __len__(self) -> int:
        return len(self.size)


@dataclass(frozen=True, slots=True, eq=False)
class SetTest:
    """Outcome of the test so far.

    Attributes
    ----------
    certified : number of members of the certified set, 0 = none yet
    asked, yes : answers inside the certified set at the stage that certified it
    read : answers of the draw that this stage read
    wanted : answers of the draw that are worth having now
    over : no further answer is wanted
    """

    certified: int = 0
    asked: int = 0
    yes: int = 0
    read: int = 0
    wanted: int = 0
    over: bool = False


def nest_sets(p_good: Floats, eligible: Bools, *, terms: Terms, alpha: float, most: int) -> NestedSets | None:
    """Cut the verifier's order into candidate sets; None when no set is expected to keep the promise.

    Parameters
    ----------
    p_good : (n,) predicted probability that a mask is good
    eligible : (n,) bool, instances without an answer
    alpha : error of the test
    most : calibration answers of the first stage at most

    Time O(n + M log M) for M members of the loosest set.
    """
    # a member that far below the promise would have to be made up for by too many others
    usable = np.flatnonzero(eligible & (p_good > terms.purity - 0.75))
    order = usable[np.argsort(-p_good[usable], kind="stable")].astype(np.int64)
    if len(order) < MIN_SET:
        return None
    expected = p_good[order].astype(np.float64)
    count = np.arange(1, len(order) + 1)
    share = np.cumsum(expected) / count
    # the mean of the best k falls with k: the last k with a mean above a margin is the size of that set
    bars = terms.purity + MARGINS * (1.0 - terms.purity)
    size = np.unique(np.searchsorted(-share, -bars, side="right").astype(np.int64))
    size = size[size >= MIN_SET]
    if not len(size):
        return None
    shifted = [share[size - 1]]
    for shift in (-DOUBT, DOUBT):
        moved = special.expit(special.logit(np.clip(expected, 1e-6, 1 - 1e-6)) + shift)
        shifted.append((np.cumsum(moved) / count)[size - 1])
    mean = np.stack(shifted)
    hoped = int(size[-1])
    loosest, first, likely = _best_plan(size, mean, terms, alpha, most)
    stages = _stages(first, int(size[loosest])) if first else ()
    size = size[: loosest + 1]
    gain = _inside(max(first, 1), size) * _evidence_per_answer(mean[0, : loosest + 1], terms)
    # First start: the strictest set that should pass with ease; when it does, looser ones that follow cost
    # nothing. Predictions can be wrong: should it fail, the second start is left.
    easy = np.flatnonzero(gain >= -EASE * np.log(alpha))
    start = min(int(easy[0]) if len(easy) else len(size), int(np.argmax(gain)))
    weight = np.zeros(len(size))
    weight[start] += FIRST_START
    weight[np.argmax(gain)] += 1.0 - FIRST_START
    expected_share = mean[0, start : loosest + 1]
    return NestedSets(order[: size[-1]], size[start:], weight[start:], expected_share, stages, likely, hoped)


def _best_plan(size: Ints, mean: Floats, terms: Terms, alpha: float, most: int) -> tuple[int, int, int]:
    """The loosest set to draw from, the answers of the first stage, and the masks they should certify.

    Best is what is expected to save the most questions: certified masks that nobody has to look at. Where the
    test fails, its answers are not lost, as their masks would have been asked about anyway; so they hardly
    count.
    """
    best, loosest, first, likely = 0.0, len(size) - 1, 0, 0.0
    bar = OVERHEAD - np.log(alpha * STAGES[0])
    each = _evidence_per_answer(mean, terms)
    for last in range(len(size)):
        for effort in EFFORTS:
            answers = min(round(effort * most), int(size[last]))
            inside = answers * np.minimum(size[: last + 1] / size[last], 1.0)
            passed = _inside(answers, size[: last + 1]) * each[:, : last + 1] >= bar
            unseen = (passed * (size[: last + 1] - inside)).max(axis=1)
            worth = float(unseen.mean()) - ANSWER_WORTH * answers
            if worth > best:
                best, loosest, first, likely = worth, last, answers, float(unseen.mean())
    return loosest, first, round(likely)


def _evidence_per_answer(mean: Floats, terms: Terms) -> Floats:
    """Evidence to expect of an answer about a member, in nats, for each predicted share of good members."""
    target = float(terms.plan_noise.observed(terms.purity))
    each: Floats = _divergence(np.asarray(terms.plan_noise.observed(mean)), np.full_like(mean, target))
    return each * (mean > terms.purity)


def _inside(answers: int, size: Ints) -> Floats:
    """(K,) answers to expect about members of each set, after that many from the loosest one."""
    share = answers / size[-1]
    # without replacement a sample tells more, the larger its part of the set is
    inside: Floats = size * share / max(1.0 - share, 0.05)
    return inside


def _divergence(p: Floats, q: Floats) -> Floats:
    """Kullback-Leibler divergence of two shares, in nats: evidence per answer."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    result: Floats = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return result


def _stages(first: int, members: int) -> tuple[int, ...]:
    """Numbers of answers at which the sets are tested."""
    doubled = [min(first * 2**i, members) for i in range(len(STAGES))]
    return tuple(sorted(set(doubled)))


def test_sets(
    sets: NestedSets, rank: Ints, yes: npt.NDArray[np.float32], *, terms: Terms, alpha: float
) -> SetTest:
    """Test the sets with the answers known so far.

    Parameters
    ----------
    rank : (t,) int64, places in ``sets.order`` of the drawn members, in the order of the draw
    yes : (t,) 1 yes, 0 no or neither, NaN not answered yet

    Time O(K · stages), plus O(K · t²) where answers err.
    """
    answered = int(np.argmax(np.isnan(yes))) if np.isnan(yes).any() else len(yes)
    best = SetTest()
    for number, answers in enumerate(sets.stages):
        if answered < answers:
            return replace(best, wanted=answers)
        inside = rank[:answers, None] < sets.size[None, :]
        asked = inside.sum(axis=0)
        told = (inside * yes[:answers, None]).sum(axis=0).astype(np.int64)
        if terms.noise is not None:
            p_values = _p_values(sets, told, asked, terms.purity, terms.noise)
            passed = np.flatnonzero(fallback(p_values, sets.weight, alpha=alpha * STAGES[number]))
            if len(passed) and sets.size[passed[-1]] > best.certified:
                k = passed[-1]
                best = SetTest(int(sets.size[k]), int(asked[k]), int(told[k]), answers)
        if number + 1 < len(sets.stages) and not _worth_more(
            sets, best.certified, told, asked, sets.stages[number + 1] - answers, terms
        ):
            break
    return replace(best, wanted=answered, over=True)


def _p_values(sets: NestedSets, told: Ints, asked: Ints, purity: float, noise: Noise) -> list[float]:
    return [
        rest_p_value(int(yes), int(n), int(size), share=purity, noise=noise)
        for yes, n, size in zip(told, asked, sets.size, strict=True)
    ]


def _worth_more(sets: NestedSets, certified: int, told: Ints, asked: Ints, more: int, terms: Terms) -> bool:
    """Whether the next stage may certify so many further masks that its answers are worth it.

    Read off the answers: stopping is free, because every stage has a part of the error of its own.
    """
    belief = BELIEF * np.asarray(terms.plan_noise.observed(sets.expected))
    rate = (told + belief) / (asked + BELIEF)
    next_asked = asked + more * sets.size / sets.size[-1]
    target = np.full(len(sets), float(terms.plan_noise.observed(terms.purity)))
    enough = (rate > target) & (next_asked * _divergence(rate, target) >= -np.log(0.02))
    hoped = int((enough * (sets.size - next_asked)).max(initial=0))
    return hoped - certified > 0.5 * more
