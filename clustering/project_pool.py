"""The pools of all labels of a project as one: rows of all labels are numbered through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clustering.arrays import Bools, Ints
from clustering.pool import Pool
from clustering.trees import ClusterTree

__all__ = ["Lessons", "ProjectPool"]


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """k predictions whose truth is known for free, because people drew the objects on their pictures.

    They must be predictions of the model that filled the pool, on pictures drawn at random that it was not
    trained on (the frozen test split): then they teach the verifier what answers would teach it.

    Attributes
    ----------
    pool : their columns, k rows
    label : (k,) int64, number of the label
    good : (k,) bool, whether the mask is good
    picture : (k,) int64, the picture it is on

    Raises
    ------
    ValueError : the columns have different lengths
    """

    pool: Pool
    label: Ints
    good: Bools
    picture: Ints

    def __post_init__(self) -> None:
        lengths = {len(self.pool), len(self.label), len(self.good), len(self.picture)}
        if len(lengths) > 1:
            raise ValueError(f"columns of the lessons have different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.pool)


class ProjectPool:
    """All n instances of a project: those of the first label, then those of the second, and so on.

    Parameters
    ----------
    pools : one per label; all need embeddings and extras of the same width
    trees : the merge tree of each, or None where the policy reads none
    lessons : predictions of known truth, if there are any

    Attributes
    ----------
    offset : (labels + 1,) int64, rows ``offset[i]:offset[i + 1]`` belong to label i
    label : (n,) int64, number of each row's label

    Raises
    ------
    ValueError : a tree does not have as many leaves as its pool, or the pools have different widths
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        trees: Sequence[ClusterTree] | None = None,
        *,
        lessons: Lessons | None = None,
    ) -> None:
        self.pools = tuple(pools)
        self.trees = None if trees is None else tuple(trees)
        self.lessons = lessons
        if self.trees is not None:
            if len(self.trees) != len(self.pools):
                raise ValueError(f"{len(self.trees)} trees for {len(self.pools)} pools")
            for tree, pool in zip(self.trees, self.pools, strict=True):
                if len(tree) != len(pool):
                    raise ValueError(
                        f"the tree has {len(tree)} instances, the pool {len(pool)}: build the tree from it"
                    )
        widths = {(p.embedding.shape[1], p.extras.shape[1]) for p in self.pools if len(p)}
        if len(widths) > 1:
            raise ValueError(f"pools have embeddings and extras of different widths: {sorted(widths)}")
        sizes = [len(pool) for pool in self.pools]
        self.offset: Ints = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self.label: Ints = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)

    @classmethod
    def single(cls, pool: Pool, tree: ClusterTree | None = None) -> ProjectPool:
        """A project of one label."""
        return cls([pool], None if tree is None else [tree])

    def __len__(self) -> int:
        return int(self.offset[-1])

    @cached_property
    def columns(self) -> Pool:
        """The pools one below the other; for a single label the pool itself, not a copy."""
        if len(self.pools) == 1:
            return self.pools[0]
        filled = [pool for pool in self.pools if len(pool)]
        empty = np.zeros((0, 0), np.float32)

        def stacked(name: str, nothing: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            return np.concatenate([getattr(pool, name) for pool in filled]) if filled else nothing

        return Pool(
            embedding=stacked("embedding", empty),
            score=stacked("score", np.zeros(0, np.float32)),
            quality=stacked("quality", np.zeros(0, np.float32)),
            extras=stacked("extras", empty),
        )
