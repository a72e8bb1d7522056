"""Compact parts of a pool by k-means in two stages: the leaves of the two-level build.

First coarse cells, then parts within each cell: time O(n·√parts·d) instead of O(n·parts·d). Lloyd's
iterations (1982) on a sample; the parts need to be compact, not optimal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from clustering.arrays import Ints

__all__ = ["partition"]

Points = npt.NDArray[np.float32]

_BLOCK = 1 << 20
"""Elements of a temporary block: small enough for the cache."""
_ROUNDS = 6
_SAMPLE_PER_CELL = 256
_LARGEST_SHARE = 0.95
"""Where one part holds more of the members than this, k-means found nothing to divide."""


def partition(
    points: Points, members: Ints, parts: int, rng: np.random.Generator, *, largest: int
) -> list[Ints]:
    """Compact, non-empty parts of the members: about ``parts`` of them, each smaller than the whole.

    Parameters
    ----------
    points : (n, c) float32
    members : (m,) int64 rows of ``points``
    largest : members per part where k-means cannot divide them
    """
    cells = _split(points, members, max(1, round(parts**0.5)), rng)
    share = parts / len(members)
    found = [part for cell in cells for part in _split(points, cell, max(1, round(share * len(cell))), rng)]
    if max(len(part) for part in found) <= _LARGEST_SHARE * len(members):
        return found
    # (nearly) equal points: any balanced division is as good
    spread_out = points[members].var(axis=0).argmax()
    ranked = members[np.argsort(points[members, spread_out], kind="stable")]
    return np.array_split(ranked, max(2, -(-len(members) // largest)))


def _split(points: Points, members: Ints, clusters: int, rng: np.random.Generator) -> list[Ints]:
    """k-means of the members into at most ``clusters`` non-empty parts."""
    if clusters < 2 or len(members) < 2:
        return [members]
    clusters = min(clusters, len(members))
    sample = members
    if len(members) > _SAMPLE_PER_CELL * clusters:
        sample = np.sort(rng.choice(members, _SAMPLE_PER_CELL * clusters, replace=False))
    rows = points[sample]
    centres = rows[np.sort(rng.choice(len(rows), clusters, replace=False))]
    for _ in range(_ROUNDS):
        nearest = _nearest(rows, centres)
        held = np.bincount(nearest, minlength=clusters)
        one_hot = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), nearest, np.arange(len(rows) + 1)), shape=(len(rows), clusters)
        )
        sums = np.asarray(one_hot.T @ rows)
        centres = np.where(held[:, None] > 0, sums / np.maximum(held, 1)[:, None], centres).astype(np.float32)
    nearest = _nearest(points, centres, members)
    ranked = members[np.argsort(nearest, kind="stable")]
    return [
        part
        for part in np.split(ranked, np.cumsum(np.bincount(nearest, minlength=clusters))[:-1])
        if len(part)
    ]


def _nearest(points: Points, centres: Points, members: Ints | None = None) -> Ints:
    """(m,) int64 row of the nearest centre of each point (of ``members``; None = all), over all columns."""
    count = len(points) if members is None else len(members)
    half = 0.5 * np.einsum("ij,ij->i", centres, centres)
    nearest = np.empty(count, np.int64)
    step = max(1, _BLOCK // max(len(centres), points.shape[1]))
    for low in range(0, count, step):
        rows = points[low : low + step] if members is None else points[members[low : low + step]]
        affinity = rows @ centres.T
        affinity -= half
        nearest[low : low + step] = affinity.argmax(axis=1)
    return nearest
