"""The merge tree of a pool. The members of every cluster are one slice of one permutation."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clustering.arrays import Floats, Ints

__all__ = ["ClusterTree"]


_FORMAT = 1
_UNREADABLE = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True, eq=False)
class ClusterTree:
    """Immutable binary tree over n instances: nodes 0..n-1 are leaves, n..2n-2 merges, 2n-2 the root.

    The members of node v are ``order[start[v]:stop[v]]``: one slice, so membership costs O(1). A leaf v is at
    position ``start[v]`` of the order.

    Attributes
    ----------
    left, right : (n-1,) int64, children of merge i, which is node n+i
    height : (n-1,) float64, linkage distance of merge i (not decreasing towards the root)
    parent : (2n-1,) int64, -1 for the root; length 0 for the empty tree
    order : (n,) int64, permutation of the instances
    start, stop : (2n-1,) int64
    """

    left: Ints
    right: Ints
    height: Floats
    parent: Ints
    order: Ints
    start: Ints
    stop: Ints

    @classmethod
    def from_linkage(cls, merges: npt.ArrayLike, n: int | None = None) -> ClusterTree:
        """Build the tree of a merge table in the format of scipy and fastcluster.

        Parameters
        ----------
        merges : (n-1, 4) floating: the two merged nodes, the height, the number of members; children come
            before their parents and heights do not decrease towards the root
        n : number of instances; needed only to tell the empty pool (0) from a single instance (1)

        Raises
        ------
        ValueError : the table is not a binary tree over n instances

        Time O(n log depth), all in array operations; memory about 20 arrays of 2n numbers.
        """
        table = np.asarray(merges, np.float64)
        if table.size == 0:
            table = table.reshape(0, 4)
        if table.ndim != 2 or table.shape[1] != 4:
            raise ValueError(f"merges are {table.shape}: expected (n-1, 4)")
        if n is None:
            n = len(table) + 1
        ids, counts = table[:, :2], table[:, 3]
        if not np.isfinite(table).all() or (ids != np.floor(ids)).any() or (counts != np.floor(counts)).any():
            raise ValueError("merges hold a value that is not finite or a node that is not a whole number")
        left, right = ids[:, 0].astype(np.int64), ids[:, 1].astype(np.int64)
        return _assemble(n, left, right, table[:, 2].copy(), counts.astype(np.int64))

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.order)

    @property
    def root(self) -> int:
        """The root node; -1 for the empty tree."""
        return len(self.parent) - 1

    @property
    def size(self) -> Ints:
        """(2n-1,) int64 number of members of each node."""
        return self.stop - self.start

    def members(self, node: int) -> Ints:
        """Instances of a node (a view, no copy)."""
        return self.order[self.start[node] : self.stop[node]]

    def children(self, node: int) -> tuple[int, int] | None:
        """The two children of a merge, None for a leaf."""
        n = len(self)
        return None if node < n else (int(self.left[node - n]), int(self.right[node - n]))

    def is_member(self, node: int | Ints, item: int | Ints) -> npt.NDArray[np.bool_]:
        """Whether instances belong to nodes, element by element (arrays broadcast): O(1) each."""
        at = self.start[item]
        return np.asarray((self.start[node] <= at) & (at < self.stop[node]))

    def ancestors(self, node: int) -> Ints:
        """(depth,) int64: the nodes above ``node``, from its parent to the root."""
        found = []
        above = int(self.parent[node])
        while above >= 0:
            found.append(above)
            above = int(self.parent[above])
        return np.asarray(found, np.int64)

    def common_ancestor(self, first: npt.ArrayLike, second: npt.ArrayLike) -> Ints:
        """(m,) int64: the smallest node that holds both instances of each pair, in O(m·depth)."""
        node, item = np.broadcast_arrays(np.asarray(first, np.int64), np.asarray(second, np.int64))
        node = node.copy()
        apart = np.flatnonzero(~self.is_member(node, item))
        while len(apart):
            node[apart] = self.parent[node[apart]]
            apart = apart[~self.is_member(node[apart], item[apart])]
        return node

    def node_height(self) -> Floats:
        """(2n-1,) float64: height of every node, 0 for the leaves."""
        return np.concatenate([np.zeros(len(self), np.float64), self.height])

    def depth(self) -> Ints:
        """(2n-1,) int64: number of ancestors of every node."""
        steps = np.ones(len(self.parent), np.int64)
        if len(steps):
            steps[-1] = 0
        return _sum_to_root(steps, self.parent)

    def sums(self, values: npt.ArrayLike) -> Floats:
        """Sum over the members of every node.

        Parameters
        ----------
        values : (n,) or (n, k), one row per instance

        Returns
        -------
        (2n-1,) or (2n-1, k) float64

        Raises
        ------
        ValueError : the number of rows is not n

        Prefix sums over ``order``: O(n·k).
        """
        column = np.asarray(values)
        if column.ndim == 0 or len(column) != len(self):
            raise ValueError(f"values are {column.shape}: the tree has {len(self)} instances")
        prefix = np.zeros((len(self) + 1, *column.shape[1:]), np.float64)
        np.cumsum(column[self.order], axis=0, dtype=np.float64, out=prefix[1:])
        result: Floats = prefix[self.stop] - prefix[self.start]
        return result

    def means(self, values: npt.ArrayLike) -> Floats:
        """Mean over the members of every node: as ``sums``, divided by the size."""
        totals = self.sums(values)
        totals /= self.size.reshape(-1, *([1] * (totals.ndim - 1)))
        return totals

    def cut(self, height: float) -> Ints:
        """(k,) int64: the largest nodes not higher than ``height``, in tree order: a partition."""
        return self._below(self.height > height)

    def cut_into(self, clusters: int) -> Ints:
        """(k,) int64: the partition into ``clusters`` nodes that undoes the highest merges, in tree order.

        Raises
        ------
        ValueError : clusters is not in 1..n
        """
        if not 1 <= clusters <= max(1, len(self)):
            raise ValueError(f"cannot cut a tree of {len(self)} instances into {clusters} clusters")
        undone = np.zeros(len(self.height), bool)
        highest_last = np.argsort(self.height, kind="stable")  # parents after equally high children
        undone[highest_last[len(highest_last) - (clusters - 1) :]] = True
        return self._below(undone)

    def _below(self, undone: npt.NDArray[np.bool_]) -> Ints:
        """The topmost nodes left without the merges ``undone`` (n-1,), which include all above them."""
        if not len(self):
            return np.zeros(0, np.int64)
        gone = np.concatenate([np.zeros(len(self), bool), undone])
        parent_gone = np.append(gone[self.parent[:-1]], True)
        nodes = np.flatnonzero(parent_gone & ~gone)
        return nodes[np.argsort(self.start[nodes], kind="stable")]

    def save(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the tree as .npz, without pickle, to this path as it is, or to an open binary file."""
        arrays: dict[str, Any] = {
            "format": np.int64(_FORMAT),
            "n": np.int64(len(self)),
            "left": self.left,
            "right": self.right,
            "height": self.height,
            "size": self.size[len(self) :],
        }
        if isinstance(file, (str, os.PathLike)):
            with open(file, "wb") as handle:
                np.savez(handle, **arrays)
        else:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, file: str | os.PathLike[str] | BinaryIO) -> ClusterTree:
        """Read what ``save`` wrote, and check that it is a tree.

        Raises
        ------
        FileNotFoundError : there is no such file
        ValueError : the file is damaged, of another format, or holds no valid tree
        """
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in ("format", "n", "left", "right", "height", "size")}
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            raise ValueError(f"not a saved cluster tree: {error}") from error
        if arrays["format"].shape or arrays["format"] != _FORMAT or arrays["n"].shape:
            raise ValueError(
                f"cluster tree of format {arrays['format']}: this version reads format {_FORMAT}"
            )
        for name in ("left", "right", "size"):
            if arrays[name].dtype != np.int64 or arrays[name].ndim != 1:
                raise ValueError(
                    f"{name} of the saved tree is {arrays[name].dtype}: expected int64 of one axis"
                )
        if arrays["height"].dtype != np.float64 or arrays["height"].ndim != 1:
            raise ValueError("height of the saved tree: expected float64 of one axis")
        return _assemble(int(arrays["n"]), *(arrays[name] for name in ("left", "right", "height", "size")))


def _assemble(n: int, left: Ints, right: Ints, height: Floats, merged: Ints) -> ClusterTree:
    """Check the merges and lay the members of every node side by side."""
    count = len(left)
    if n < 0 or count != max(0, n - 1) or not count == len(right) == len(height) == len(merged):
        raise ValueError(f"{count} merges for {n} instances: a binary tree needs one less than instances")
    if n == 0:
        none = np.zeros(0, np.int64)
        return ClusterTree(none, none, np.zeros(0, np.float64), none, none, none, none)
    nodes = np.arange(n, 2 * n - 1)
    if (np.minimum(left, right) < 0).any() or (np.maximum(left, right) >= nodes).any():
        raise ValueError("a merge names a node that does not exist yet: children come before parents")
    uses = np.bincount(np.concatenate([left, right]), minlength=2 * n - 1)[: 2 * n - 2]
    if (uses != 1).any():
        raise ValueError(
            f"node {int(np.flatnonzero(uses != 1)[0])} is not merged exactly once: not a binary tree"
        )
    if not np.isfinite(height).all():
        raise ValueError("a height is not finite")
    size = np.concatenate([np.ones(n, np.int64), merged])
    if (size[left] + size[right] != merged).any():
        raise ValueError("the number of members of a merge is not the sum of its children's")
    tall = np.concatenate([np.full(n, -np.inf), height])
    if (np.maximum(tall[left], tall[right]) > height).any():
        raise ValueError(
            "a merge is lower than one of its children: heights must not decrease towards the root"
        )
    parent = np.full(2 * n - 1, -1, np.int64)
    parent[left] = nodes
    parent[right] = nodes
    offset = np.zeros(2 * n - 1, np.int64)
    offset[right] = size[left]  # the left child stands at its parent's start, the right one after it
    start = _sum_to_root(offset, parent)
    order = np.empty(n, np.int64)
    order[start[:n]] = np.arange(n)
    return ClusterTree(left, right, height, parent, order, start, start + size)


def _sum_to_root(values: Ints, parent: Ints) -> Ints:
    """(2n-1,) sum of ``values`` over each node and its ancestors; the root's value must be 0.

    Pointer doubling (Wyllie 1979): after k rounds a node has summed the 2^k nearest of them. A chain of a
    million merges takes 20 rounds, and no recursion.
    """
    totals = values.copy()
    root = len(parent) - 1
    above = np.where(parent < 0, root, parent)
    while (above != root).any():
        totals += totals[above]
        above = above[above]
    return totals
