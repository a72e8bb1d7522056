"""Which pictures to label before there is any label: the most typical ones of the largest groups.

TypiClust (Hacohen, Dekel, Weinshall 2022, arXiv 2202.02794): with few labels, typical pictures teach more
than odd ones. The pictures are divided into as many groups as there will be labels; from the largest group
that has no label yet comes the picture in the densest place, where typicality is one over the mean distance
to the nearest neighbours.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from clustering.arrays import Floats, Ints
from clustering.trees import partition

__all__ = ["typical_order", "typicality"]

Features = npt.NDArray[np.float32]

NEIGHBOURS: Final = 20
_LARGEST: Final = 2000
"""pictures of a group among which the neighbours are looked for: a sample of that size of larger groups"""


def typicality(points: Features, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> Floats:
    """(n,) one over the mean distance to the nearest ``neighbours`` rows; infinite for exact repetitions.

    In larger sets the neighbours are looked for in a sample of 2,000 rows. Memory O(n + sample²).
    """
    n = len(points)
    if n < 2:
        return np.ones(n)
    rng = np.random.default_rng(seed)
    others = points if n <= _LARGEST else points[np.sort(rng.choice(n, _LARGEST, replace=False))]
    out = np.empty(n)
    k = min(neighbours, len(others) - 1)
    for start in range(0, n, 512):
        block = points[start : start + 512]
        squared = (
            np.einsum("ij,ij->i", block, block)[:, None]
            + np.einsum("ij,ij->i", others, others)
            - 2.0 * block @ others.T
        )
        nearest = np.sqrt(np.maximum(np.partition(squared, k, axis=1)[:, : k + 1], 0.0))
        # the row itself is among them where it is in the sample, at distance 0
        with np.errstate(divide="ignore"):
            out[start : start + 512] = k / nearest.sum(axis=1)
    return out


def typical_order(feature: Features, groups: int, *, labelled: Features | None = None, seed: int = 0) -> Ints:
    """(n,) rows, the first to label first.

    Parameters
    ----------
    feature : (n, f) float32
    groups : number of pictures that are to be labelled now; so many groups are made, beside the labelled ones
    labelled : (m, f) features of pictures that are labelled already: groups with one of them come last

    One picture of each group, the largest group first, then a second one of each, and so on: any number of
    first rows is spread over the groups. Time O(n·√groups·f). Raises ValueError when ``groups`` is below 1.
    """
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    n, old = len(feature), 0 if labelled is None else len(labelled)
    if n < 2:
        return np.arange(n)
    both = feature if labelled is None or not old else np.concatenate([feature, labelled])
    spread = both.std(axis=0)
    points = np.ascontiguousarray(
        (both - both.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf), np.float32
    )
    parts = min(groups + old, n + old)
    rng = np.random.default_rng(seed)
    found = partition(points, np.arange(n + old), parts, rng, largest=max(2, -(-(n + old) // parts)))
    ranked: list[tuple[int, int, int, int]] = []  # (turn, labelled?, -size, row)
    for members in found:
        fresh = members[members < n]
        if not len(fresh):
            continue
        held = len(members) - len(fresh)
        dense = typicality(points[members], seed=seed)[members < n]
        by_density = fresh[np.argsort(-dense, kind="stable")]
        ranked += [
            (turn + held, -len(members), int(fresh[0]), int(row)) for turn, row in enumerate(by_density)
        ]
    return np.array([row for *_, row in sorted(ranked)], np.int64)
