"""ClusterTree: an immutable binary merge tree whose clusters are slices of one permutation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ClusterTree"]


@dataclass(frozen=True, slots=True, eq=False)
class ClusterTree:
    """Binary tree over n instances: nodes 0..n-1 are leaves (instances), n..2n-2 merges, 2n-2 the root.

    The members of node v are ``order[start[v]:stop[v]]``: one slice, so membership costs O(1).

    Attributes
    ----------
    left, right : (n-1,) int64, children of merge i, which is node n+i
    height : (n-1,) float64, linkage distance of merge i (not decreasing towards the root)
    parent : (2n-1,) int64, -1 for the root
    order : (n,) int64, permutation of the instances
    start, stop : (2n-1,) int64
    """

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    height: npt.NDArray[np.float64]
    parent: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.order)

    @property
    def root(self) -> int:
        """The root node; -1 for the empty tree."""
        return len(self.parent) - 1

    @property
    def size(self) -> npt.NDArray[np.int64]:
        """(2n-1,) int64 number of members of each node."""
        return self.stop - self.start

    def members(self, node: int) -> npt.NDArray[np.int64]:
        """Instances of a node (a view, no copy)."""
        return self.order[self.start[node] : self.stop[node]]

    def children(self, node: int) -> tuple[int, int] | None:
        """The two children of a merge, None for a leaf."""
        n = len(self)
        return None if node < n else (int(self.left[node - n]), int(self.right[node - n]))
