"""The two-level build: k-means leaves, exact complete linkage within each leaf and over all of them.

A point is a row [f·appearance_scale, w·s·prior_scale]. D of two rows is the Euclidean distance of all columns
but the last, plus 1/w times the absolute difference of the last. k-means sees the Euclidean distance of whole
rows, in which the same difference of the prior would count for less than in D; the weight w makes up for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt

from clustering.arrays import Floats, Ints
from clustering.trees._complete import complete_linkage
from clustering.trees._kmeans import partition
from clustering.trees.tree import ClusterTree

__all__ = ["build_merges"]

Points = npt.NDArray[np.float32]

_LARGEST_LEAF = 1500
"""Largest leaf that is linked at once: its distances take 18 MB and a twentieth of a second."""
_BLOCK = 1 << 20
"""Elements of a temporary block: small enough for the cache."""


def build_merges(points: Points, *, weight: float, leaves: int, spread: int, seed: int) -> Floats:
    """Merge table (n-1, 4) of n >= 2 points, sorted by height, in the format of scipy."""
    build = _Build(points, weight, spread, np.random.default_rng(seed))
    build.link(np.arange(len(points)), leaves)
    return build.table()


@dataclass(slots=True, eq=False)
class _Branch:
    """A finished subtree: its node, number of members, height, and the outlying members that stand for it."""

    node: int
    size: int
    height: float
    outliers: Ints


@dataclass(slots=True, eq=False)
class _Build:
    """One build: its points, and the merges made so far."""

    points: Points
    weight: float
    spread: int
    rng: np.random.Generator
    rows: list[Floats] = field(default_factory=list)
    made: int = 0

    def link(self, members: Ints, leaves: int) -> _Branch:
        """Link these instances, by way of ``leaves`` leaves, into one subtree."""
        if len(members) <= _LARGEST_LEAF and leaves == 1:
            return self._leaf(members)
        parts = partition(self.points, members, leaves, self.rng, largest=_LARGEST_LEAF)
        branches = [self.link(part, _leaves_within(len(part))) for part in parts]
        return self._join(branches)

    def table(self) -> Floats:
        """(n-1, 4) all merges by ascending height, their nodes numbered accordingly."""
        rows = np.concatenate(self.rows)
        n = len(self.points)
        ranked = np.argsort(rows[:, 2], kind="stable")  # stable: children were made before their parents
        number = np.empty(n + len(rows))
        number[:n] = np.arange(n)
        number[n + ranked] = n + np.arange(len(rows))
        table = rows[ranked]
        table[:, :2] = np.sort(number[table[:, :2].astype(np.int64)], axis=1)
        return table

    def _leaf(self, members: Ints) -> _Branch:
        if len(members) == 1:
            return _Branch(int(members[0]), 1, 0.0, members)
        distance = _pairwise(self.points[members], self.weight)
        upper = np.triu_indices(len(members), 1)
        merges = complete_linkage(distance[upper])
        node = self._append(merges, members, merges[:, 3])
        return _Branch(node, len(members), float(merges[-1, 2]), members[_outlying(distance, self.spread)])

    def _join(self, branches: list[_Branch]) -> _Branch:
        if len(branches) == 1:
            return branches[0]
        condensed = self._between(branches)
        merges = complete_linkage(condensed)
        del condensed
        sizes = np.array([branch.size for branch in branches])
        merged = ClusterTree.from_linkage(merges).sums(sizes)[len(branches) :]
        node = self._append(merges, np.array([branch.node for branch in branches]), merged)
        candidates = np.concatenate([branch.outliers for branch in branches])
        if len(candidates) > _LARGEST_LEAF:
            candidates = candidates[:: -(-len(candidates) // _LARGEST_LEAF)]
        outliers = candidates[_outlying(_pairwise(self.points[candidates], self.weight), self.spread)]
        return _Branch(node, int(sizes.sum()), float(merges[-1, 2]), outliers)

    def _append(self, merges: Floats, nodes: Ints, sizes: Floats) -> int:
        """Add merges over ``nodes``; returns the node of the last one."""
        base = len(self.points) + self.made
        names = np.concatenate([nodes, base + np.arange(len(merges))])
        rows = np.empty((len(merges), 4))
        rows[:, :2] = names[merges[:, :2].astype(np.int64)]
        rows[:, 2] = merges[:, 2]
        rows[:, 3] = sizes
        self.rows.append(rows)
        self.made += len(merges)
        return int(names[-1])

    def _between(self, branches: list[_Branch]) -> Floats:
        """Condensed distances of branches: of the farthest pair of outliers, but at least either height."""
        count = len(branches)
        outliers = np.stack([np.resize(branch.outliers, self.spread) for branch in branches])
        height = np.array([branch.height for branch in branches])
        stands = [_Columns.of(self.points[outliers[:, k]], self.weight) for k in range(self.spread)]
        condensed = np.empty(count * (count - 1) // 2)
        step = max(1, _BLOCK // count)
        filled = 0
        for low in range(0, count - 1, step):
            high = min(low + step, count - 1)
            farthest = np.zeros((high - low, count - low), np.float32)
            for a, b in product(stands, stands):
                np.maximum(farthest, a.distances(b, slice(low, high), slice(low, count)), out=farthest)
            for i in range(low, high):
                row = condensed[filled : filled + count - 1 - i]
                np.maximum(farthest[i - low, i - low + 1 :], height[i + 1 :], out=row)
                np.maximum(row, height[i], out=row)
                filled += len(row)
        return condensed


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The columns of some points as the distance reads them, in float32."""

    features: Points
    squared: npt.NDArray[np.float32]
    prior: npt.NDArray[np.float32]

    @classmethod
    def of(cls, points: Points, weight: float) -> _Columns:
        features = np.ascontiguousarray(points[:, :-1])
        return cls(features, np.einsum("ij,ij->i", features, features), points[:, -1] / np.float32(weight))

    def distances(self, other: _Columns, rows: slice, columns: slice) -> Points:
        """(rows, columns) distances of some of these points to some of the others."""
        block: Points = self.features[rows] @ other.features[columns].T
        block *= -2.0
        block += self.squared[rows, None]
        block += other.squared[columns]
        np.maximum(block, 0.0, out=block)
        np.sqrt(block, out=block)
        gap = self.prior[rows, None] - other.prior[columns]
        block += np.abs(gap, out=gap)
        return block


def _pairwise(points: Points, weight: float) -> Floats:
    """(m, m) float64 distances, 0 on the diagonal."""
    features = points[:, :-1].astype(np.float64)
    features -= features.mean(axis=0)
    square = features @ features.T
    squared = square.diagonal().copy()
    square *= -2.0
    square += squared[:, None]
    square += squared
    np.maximum(square, 0.0, out=square)
    np.sqrt(square, out=square)
    prior = points[:, -1].astype(np.float64) / weight
    square += np.abs(prior[:, None] - prior)
    np.fill_diagonal(square, 0.0)
    return square


def _outlying(distance: Floats, count: int) -> Ints:
    """Up to ``count`` rows far apart: the two farthest, then always the farthest from those chosen."""
    if len(distance) <= count:
        return np.arange(len(distance))
    chosen = [int(row) for row in np.unravel_index(int(distance.argmax()), distance.shape)][:count]
    nearest = distance[chosen].min(axis=0)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        np.minimum(nearest, distance[chosen[-1]], out=nearest)
    return np.asarray(chosen, np.int64)


def _leaves_within(members: int) -> int:
    return 1 if members <= _LARGEST_LEAF else max(2, members // 100)
