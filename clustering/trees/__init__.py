"""Cluster trees: the distance between masks, linkages that merge a pool, and the tree they give.

From the pool to the tree: ``distance`` (D of two masks), ``linkage`` (exact or two-level), ``tree``
(``ClusterTree``). Most callers need ``grow_tree`` alone.
"""

from __future__ import annotations

from clustering.trees._kmeans import partition
from clustering.trees.distance import (
    Standardisation,
    condensed_bytes,
    condensed_distances,
    sample_standardisation,
)
from clustering.trees.linkage import ExactLinkage, Linkage, TwoLevelLinkage, choose_linkage, grow_tree
from clustering.trees.tree import ClusterTree

__all__ = [
    "ClusterTree",
    "ExactLinkage",
    "Linkage",
    "Standardisation",
    "TwoLevelLinkage",
    "choose_linkage",
    "condensed_bytes",
    "condensed_distances",
    "grow_tree",
    "partition",
    "sample_standardisation",
]
