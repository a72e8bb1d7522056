"""From a pool to its merges: exact complete linkage for small pools, two levels for large ones.

Exact: complete linkage by fastcluster (Müllner 2013, Journal of Statistical Software 53(9)). Two levels:
leaves by k-means, which are then linked, as Papadopoulos et al. (ICCV 2021) did for a million masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clustering.arrays import Floats
from clustering.pool import Pool
from clustering.trees._complete import complete_linkage
from clustering.trees.distance import (
    BLOCK_BYTES,
    check_columns,
    condensed_bytes,
    condensed_distances,
    sample_standardisation,
)
from clustering.trees.tree import ClusterTree
from clustering.trees.two_level import build_merges

__all__ = [
    "MEMORY_BYTES",
    "ExactLinkage",
    "Linkage",
    "TwoLevelLinkage",
    "choose_linkage",
    "grow_tree",
]


MEMORY_BYTES = 4 << 30
"""Default memory budget of a linkage in bytes, beside the pool itself."""

EXACT_INSTANCES = 12_000
"""Above this number of instances the exact build, which is quadratic, takes many seconds."""


class Linkage(Protocol):
    """A way to build the merges of a pool.

    ``merges`` takes the embedding (n, d) and the prior (n,) and returns a merge table (n-1, 4) float64 in the
    format of scipy: node, node, height, members; heights do not decrease along the rows. The same input and
    seed give the same table. Values that are not finite raise ValueError.
    """

    @property
    def name(self) -> str: ...

    def merges(self, embedding: npt.ArrayLike, prior: npt.ArrayLike, *, seed: int) -> Floats: ...


@dataclass(frozen=True, slots=True)
class ExactLinkage:
    """Complete linkage over all pairs with fastcluster: the reference. Time O(n²d), memory 4n² bytes.

    ``merges`` raises ValueError when the matrix of all pairs exceeds ``memory_bytes``.
    """

    memory_bytes: int = MEMORY_BYTES
    name: str = "exact"

    def merges(self, embedding: npt.ArrayLike, prior: npt.ArrayLike, *, seed: int = 0) -> Floats:
        """Merge table of the pool; ``seed`` changes nothing."""
        features, quality = check_columns(embedding, prior)
        n = len(features)
        if condensed_bytes(n) + BLOCK_BYTES > self.memory_bytes:
            raise ValueError(
                f"exact linkage of {n} instances needs {condensed_bytes(n) / 2**30:.1f} GiB, the budget "
                f"is {self.memory_bytes / 2**30:.1f} GiB: use TwoLevelLinkage or raise the budget"
            )
        return _complete(condensed_distances(features, quality), n)


@dataclass(frozen=True, slots=True)
class TwoLevelLinkage:
    """Leaves by k-means, exact linkage within each leaf and over the leaves. Time O(n·√leaves·d + leaves²).

    1. Every instance becomes a point [f/σ_F ; w·s/σ_s]; Euclidean distances of points take the place of D.
    2. k-means in two stages (coarse cells, then leaves within each cell) makes ``leaves`` leaves.
    3. The members of a leaf are linked exactly under D. A leaf that is too large for that is built by the
    same
       steps again; where k-means cannot divide it, it is divided evenly.
    4. The leaves are linked exactly. The distance of two leaves is that of the farthest pair among their
       ``spread`` most outlying members, and at least the height of either: so heights do not decrease.

    Attributes
    ----------
    leaves : number of leaves; 0 = about ``n / 5`` within 16..8000
    spread : members that stand for a leaf in step 4
    weight : w > 0, weight of the prior in the k-means of step 2
    memory_bytes : memory budget beside the pool; limits ``leaves``

    Raises
    ------
    ValueError : an option is out of its range; ``merges``: the budget is too small for the pool
    """

    leaves: int = 0
    spread: int = 4
    weight: float = 2.0
    memory_bytes: int = MEMORY_BYTES
    name: str = "two-level"

    def __post_init__(self) -> None:
        if self.leaves < 0 or self.spread < 1 or not self.weight > 0:
            raise ValueError(
                f"leaves is {self.leaves}, spread {self.spread}, weight {self.weight}: "
                "expected >= 0, >= 1 and > 0"
            )

    def merges(self, embedding: npt.ArrayLike, prior: npt.ArrayLike, *, seed: int) -> Floats:
        """Merge table of the pool."""
        features, quality = check_columns(embedding, prior)
        n = len(features)
        if n < 3:
            return _complete(condensed_distances(features, quality), n)
        scales = sample_standardisation(features, quality, seed=seed)
        points = np.empty((n, features.shape[1] + 1), np.float32)
        centre = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
        np.subtract(features, centre, out=points[:, :-1], casting="same_kind")
        points[:, :-1] *= scales.appearance_scale
        points[:, -1] = (quality - quality.mean()) * (self.weight * scales.prior_scale)
        leaves = min(n, self.leaves or min(8000, max(16, n // 5)), self._most_leaves(points.nbytes))
        return build_merges(points, weight=self.weight, leaves=leaves, spread=self.spread, seed=seed)

    def _most_leaves(self, taken: int) -> int:
        """How many leaves the budget allows, after ``taken`` bytes for the points."""
        free = self.memory_bytes - taken - BLOCK_BYTES
        if free < condensed_bytes(256):
            raise ValueError(
                f"a memory budget of {self.memory_bytes / 2**30:.2f} GiB is too small for this pool, whose "
                f"points take {taken / 2**30:.2f} GiB: raise it"
            )
        return int((free / 4) ** 0.5)


def choose_linkage(n: int, memory_bytes: int = MEMORY_BYTES) -> Linkage:
    """Exact linkage while it is quick and fits the budget, else the two-level build."""
    if n <= EXACT_INSTANCES and condensed_bytes(n) + BLOCK_BYTES <= memory_bytes:
        return ExactLinkage(memory_bytes)
    return TwoLevelLinkage(memory_bytes=memory_bytes)


def grow_tree(
    pool: Pool, *, linkage: Linkage | None = None, memory_bytes: int = MEMORY_BYTES, seed: int
) -> ClusterTree:
    """The tree of one pool, built by ``linkage`` (None = ``choose_linkage``)."""
    chosen = linkage or choose_linkage(len(pool), memory_bytes)
    return ClusterTree.from_linkage(chosen.merges(pool.embedding, pool.prior, seed=seed), len(pool))


def _complete(condensed: Floats, n: int) -> Floats:
    """Complete linkage in place: the condensed matrix is overwritten."""
    if n < 2:
        return np.zeros((0, 4), np.float64)
    return complete_linkage(condensed)
