"""The order in which pictures are worth labelling: doubt × how much they stand for × balance of the classes.

Doubt alone picks the same hard thing again and again, and what it likes best are often odd pictures that
teach little about the others. So each pick is also weighed by what it stands for: by how much it raises the
mean, over all pictures weighted with their doubt, of the similarity to the closest picture chosen or labelled
so far (uncertainty herding: Bae et al. 2024, arXiv 2412.20644, after MaxHerding, arXiv 2407.12212). That is a
facility-location function: its gains only shrink, so a priority queue of old gains finds each greedy pick
after a few looks. Unlike the farthest point (k-centre) it does not run after outliers.

Only the first ``ahead`` places are made so, among the ``4 · ahead`` most doubtful pictures (as Yang et al.
2024, arXiv 2211.11612, do): before the rest is served there is a new model. Memory: O(ahead · references).
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

import numpy as np
import numpy.typing as npt

from clustering.arrays import Bools, Floats, Ints

__all__ = [
    "OrderRule",
    "Ranking",
    "class_need",
    "put_last",
    "rank_tasks",
    "similarity_width",
    "with_uniform_picks",
]

Features = npt.NDArray[np.float32]

_CANDIDATES_PER_PLACE: Final = 4
_REFERENCES: Final = 1500
"""pictures that stand for all of them; more changes the gains by less than their noise"""
_NEIGHBOUR: Final = 10
"""the width of the similarity is the median distance of a reference to its neighbour of this rank"""
_LEAST: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRule:
    """How the parts are weighed.

    Attributes
    ----------
    doubt, diversity, balance : exponents of the doubt about a picture, of what it stands for, and of the need
        for its classes; 0 = ignored
    explore : share of places that go to pictures drawn uniformly from those left
    ahead : places that are made one by one; the rest follows by doubt and balance

    Raises ValueError when a number is out of range.
    """

    doubt: float = 1.0
    diversity: float = 0.5
    balance: float = 0.5
    explore: float = 0.05
    ahead: int = 500

    def __post_init__(self) -> None:
        for name in ("doubt", "diversity", "balance"):
            if not 0.0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0.0 <= self.explore < 1.0:
            raise ValueError(f"explore must be at least 0 and below 1, got {self.explore}")
        if self.ahead < 0:
            raise ValueError(f"ahead must be 0 or more, got {self.ahead}")


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """n pictures in order, with why.

    Attributes
    ----------
    order : (n,) rows, first served first
    gain : (n,) by row: what the picture stood for when it was chosen, as a share of the best one then;
        NaN where that was not computed
    similar : (n,) by row: the row chosen earlier that is most similar, -1 = none known
    explored : (n,) bool by row: whether it was drawn uniformly
    inclusion : (n,) by row: the probability with which this picture got its place, given those before it
    """

    order: Ints
    gain: Floats
    similar: Ints
    explored: Bools
    inclusion: Floats


def class_need(shown: Floats, labelled: npt.ArrayLike) -> Floats:
    """(n,) in 0..1: how much the classes that a picture seems to show are needed.

    Parameters
    ----------
    shown : (n, k) expected number of objects of each class; its scale within a row does not matter, so that
        crowded pictures have no advantage
    labelled : (k,) number of labelled objects of each class

    A class is needed as ``(1 + count)^-1/2``: the error of what is learnt from m examples falls about so. The
    neediest class counts 1. Pictures that show nothing get the mean of all pictures that do (1 if none does).
    """
    count = np.asarray(labelled, np.float64)
    if shown.shape[1:] != count.shape:
        raise ValueError(f"{shown.shape[1]} classes are shown, {len(count)} were counted")
    if not len(count):
        return np.ones(len(shown))
    need = (1.0 + count) ** -0.5
    need /= need.max()
    total = shown.sum(axis=1)
    found = total > 0
    out = np.ones(len(shown))
    out[found] = shown[found] @ need / total[found]
    if found.any():
        out[~found] = out[found].mean()
    return out


def similarity_width(points: Features) -> float:
    """The distance at which two pictures are half as good as the same: the median distance to a near one."""
    if len(points) < 2:
        return 1.0
    near = min(_NEIGHBOUR, len(points) - 1)
    distance = np.sort(_squared_distances(points, points), axis=1)[:, near]
    width = float(np.sqrt(np.median(distance)))
    return width if width > 0 else 1.0


def rank_tasks(
    doubt: npt.ArrayLike,
    feature: Features,
    *,
    need: npt.ArrayLike | None = None,
    labelled: Features | None = None,
    last: Bools | None = None,
    rule: OrderRule | None = None,
    seed: int = 0,
) -> Ranking:
    """Order n pictures.

    Parameters
    ----------
    doubt : (n,) 0..1, how much is expected to be wrong
    feature : (n, f) float32, what the pictures look like; f = 0: unknown, nothing is diversified
    need : (n,) 0..1, need for the classes of each (``class_need``); None = equal
    labelled : (m, f) features of the pictures that are labelled already
    last : (n,) bool, pictures that come after all others (but for the uniform picks, which know no
        difference: shares of the whole project are estimated from them)
    seed : of the references and the uniform picks

    Equal values keep the order of the rows. Time O(n·f + ahead·references·few); raises ValueError when the
    columns do not fit.
    """
    rule = rule or OrderRule()
    value = np.clip(np.nan_to_num(np.asarray(doubt, np.float64)), _LEAST, 1.0)
    n = len(value)
    weight = np.ones(n) if need is None else np.asarray(need, np.float64)
    if len(feature) != n or len(weight) != n:
        raise ValueError(f"{n} doubts, {len(feature)} features and {len(weight)} needs")
    rng = np.random.default_rng(seed)
    value = value**rule.doubt
    worth = value * np.clip(weight, _LEAST, None) ** rule.balance
    by_worth: Ints = np.argsort(-worth, kind="stable")
    gain, similar = np.full(n, np.nan), np.full(n, -1, np.int64)
    greedy = by_worth
    if rule.diversity > 0 and rule.ahead and feature.shape[1] and n > 1:
        among = by_worth[: _CANDIDATES_PER_PLACE * rule.ahead]
        picks = _herd(value, worth, feature, among, labelled, rule, rng, gain, similar)
        left = np.ones(n, bool)
        left[picks] = False
        greedy = np.concatenate([picks, by_worth[left[by_worth]]])
    if last is not None:
        greedy = put_last(greedy, last)
    order, explored, inclusion = with_uniform_picks(greedy, rule.explore, rng)
    return Ranking(order, gain, similar, explored, inclusion)


def _herd(
    value: Floats,
    worth: Floats,
    feature: Features,
    among: Ints,
    labelled: Features | None,
    rule: OrderRule,
    rng: np.random.Generator,
    gain: Floats,
    similar: Ints,
) -> Ints:
    """The greedy picks among some rows; fills ``gain`` and ``similar`` of those picked."""
    points = _standardised(feature, labelled)
    n = len(value)
    refs = np.arange(n) if n <= _REFERENCES else np.sort(rng.choice(n, _REFERENCES, replace=False))
    width = similarity_width(points[refs])
    like = _similarity(points[among], points[refs], width)  # (c, r)
    cover = np.zeros(len(refs), np.float32)
    old = points[n:]
    for start in range(0, len(old), 1024):
        np.maximum(cover, _similarity(old[start : start + 1024], points[refs], width).max(axis=0), out=cover)
    share = (value[refs] / value[refs].sum()).astype(np.float32)

    def gain_of(i: int) -> float:
        return float(np.maximum(like[i] - cover, 0.0) @ share)

    first = np.maximum(like - cover, 0.0) @ share
    factor = worth[among]
    waiting = [
        (-float(factor[i] * max(float(first[i]), _LEAST) ** rule.diversity), i, 0) for i in range(len(among))
    ]
    heapify(waiting)
    picks: list[int] = []
    best_first = max(float(first.max()), _LEAST)
    while waiting and len(picks) < rule.ahead:
        _, i, seen = heappop(waiting)
        if seen != len(picks):  # the gain is of an earlier time: it can only have shrunk
            fresh = max(gain_of(i), _LEAST)
            heappush(waiting, (-float(factor[i] * fresh**rule.diversity), i, len(picks)))
            continue
        row = int(among[i])
        gain[row] = min(gain_of(i) / best_first, 1.0)
        if picks:
            earlier = np.array(picks)
            similar[row] = among[
                earlier[_squared_distances(points[[row]], points[among[earlier]])[0].argmin()]
            ]
        np.maximum(cover, like[i], out=cover)
        picks.append(i)
    chosen: Ints = among[np.array(picks, np.int64)]
    return chosen


def put_last(order: Ints, last: Bools) -> Ints:
    """The order with the rows behind all others for which ``last`` (n,) is True."""
    return np.concatenate([order[~last[order]], order[last[order]]])


def with_uniform_picks(greedy: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, Bools, Floats]:
    """The greedy order with uniform picks mixed in; (order, explored by row, inclusion by row)."""
    n = len(greedy)
    explored, inclusion = np.zeros(n, bool), np.ones(n)
    if not share or n < 2:
        return greedy.astype(np.int64), explored, inclusion
    at_random = rng.random(n) < share
    shuffled = rng.permutation(n)
    taken = np.zeros(n, bool)
    order = np.empty(n, np.int64)
    next_greedy = next_random = 0
    for place in range(n):
        while taken[greedy[next_greedy]]:
            next_greedy += 1
        best = greedy[next_greedy]
        row = best
        if at_random[place]:
            while taken[shuffled[next_random]]:
                next_random += 1
            row = shuffled[next_random]
            explored[row] = True
        taken[row] = True
        order[place] = row
        uniform = share / (n - place)
        inclusion[row] = uniform + (1.0 - share if row == best else 0.0)
    return order, explored, inclusion


def _standardised(feature: Features, labelled: Features | None) -> Features:
    """Rows of both with mean 0 and variance 1 by column of ``feature``; constant columns become 0."""
    both = feature if labelled is None or not len(labelled) else np.concatenate([feature, labelled])
    spread = feature.std(axis=0)
    scale = np.where(spread > 1e-12, spread, np.inf)
    return np.ascontiguousarray((both - feature.mean(axis=0)) / scale, np.float32)


def _similarity(points: Features, others: Features, width: float) -> Features:
    """(a, b) in 0..1: 1 = the same, 1/2 at ``width``."""
    return np.asarray(np.exp(-np.log(2.0) * _squared_distances(points, others) / width**2), np.float32)


def _squared_distances(points: Features, others: Features) -> Features:
    left, right = np.einsum("ij,ij->i", points, points), np.einsum("ij,ij->i", others, others)
    return np.asarray(np.maximum(left[:, None] + right - 2.0 * points @ others.T, 0.0), np.float32)
