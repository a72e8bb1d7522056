"""The cluster tree of one label, as a function that runs on any machine."""

from __future__ import annotations

import io
from dataclasses import dataclass

from clustering.pool import Pool
from clustering.trees.linkage import Linkage, grow_tree
from sync.executor.base import Node

__all__ = ["Growing", "grow"]


@dataclass(frozen=True, slots=True)
class Growing:
    """How the trees of a round are grown; ``linkage`` None: the one that suits the size of each pool."""

    linkage: Linkage | None
    seed: int


def grow(growing: Growing, pool: Pool, node: Node) -> bytes:
    """The tree of one pool as the bytes of its file, see ``ClusterTree.save``."""
    tree = grow_tree(pool, linkage=growing.linkage, seed=growing.seed)
    file = io.BytesIO()
    tree.save(file)
    return file.getvalue()
