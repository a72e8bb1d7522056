"""Pictures that are nearly the same, found by their hashes: bits of which few differ.

Two hashes that differ in few bits agree in at least one of 16 bands of 16 bits, but for one bit (the
pigeonhole of Manku, Jain, Das Sarma, WWW 2007). So only hashes that share a band, or differ in one bit of it,
are compared: about linear time and memory, never all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from clustering.arrays import Ints

__all__ = ["BITS", "FARTHEST", "alike_groups", "differing_bits"]

BITS: Final = 256
_BANDS: Final = 16
FARTHEST: Final = 2 * _BANDS - 1
"""largest number of differing bits that is found for certain"""
_CHUNK: Final = 1 << 20
_BUCKET: Final = 2048

Hashes = npt.NDArray[np.uint16]


def alike_groups(hashes: Hashes, most: int) -> tuple[Ints, Ints]:
    """Groups of hashes that differ in at most ``most`` bits, from one to the next.

    Parameters
    ----------
    hashes : (n, 16) uint16, one row per picture
    most : 0..``FARTHEST`` bits

    Returns
    -------
    (n,) int64 number of each picture's group, and (n,) int64 the most alike other picture, -1 for none.
    Raises ValueError for another ``most``.
    """
    if not 0 <= most <= FARTHEST:
        raise ValueError(f"most must lie between 0 and {FARTHEST}, got {most}")
    n = len(hashes)
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    m = len(unique)
    nearest, distance = np.full(m, -1, np.int64), np.full(m, most + 1, np.int64)
    graph_rows: list[Ints] = [np.arange(m)]
    graph_columns: list[Ints] = [np.arange(m)]
    for left, right in _candidates(unique, near=most >= _BANDS):
        apart = differing_bits(unique[left], unique[right])
        left, right, apart = left[apart <= most], right[apart <= most], apart[apart <= most]
        for here, there in ((left, right), (right, left)):
            order = np.argsort(-apart, kind="stable")  # the nearest is written last
            closer = order[apart[order] < distance[here[order]]]
            nearest[here[closer]], distance[here[closer]] = there[closer], apart[closer]
        graph_rows.append(left)
        graph_columns.append(right)
    rows, columns = np.concatenate(graph_rows), np.concatenate(graph_columns)
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(m, m))
    group = connected_components(graph, directed=False)[1].astype(np.int64)[inverse]
    other = np.where(nearest >= 0, first[np.maximum(nearest, 0)], -1)[inverse].astype(np.int64)
    order = np.argsort(inverse, kind="stable")  # equal hashes stand beside each other
    again = np.flatnonzero(inverse[order][1:] == inverse[order][:-1])
    other[order[again + 1]] = order[again]
    other[order[again]] = order[again + 1]
    return group, other if n else np.zeros(0, np.int64)


def differing_bits(left: Hashes, right: Hashes) -> Ints:
    """(k,) number of bits in which the rows of two (k, 16) arrays differ."""
    return np.asarray(np.bitwise_count(left ^ right).sum(axis=1), np.int64)


def _candidates(unique: Hashes, *, near: bool) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows that agree in a band; with ``near`` also but for one bit of it. In chunks.

    Of the hashes that share a band each is compared with ``_BUCKET`` at most: a band that is the same in all
    pictures says nothing.
    """
    for band in range(unique.shape[1]):
        values = unique[:, band]
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        for flip in [0, *(1 << bit for bit in range(16) if near)]:
            wanted = ordered ^ np.uint16(flip)
            low, high = np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
            # each pair once: the later row of it looks back
            high = np.minimum(high, np.arange(len(order))) if not flip else high
            low = np.maximum(low, high - _BUCKET)
            count = np.maximum(high - low, 0)
            ends = np.cumsum(count)
            start = 0
            while start < len(order):
                before = ends[start - 1] if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK, "right")))
                part = count[start:stop]
                if part.sum():
                    here = np.repeat(np.arange(start, stop), part)
                    steps = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
                    there = np.repeat(low[start:stop], part) + steps
                    yield order[here].astype(np.int64), order[there].astype(np.int64)
                start = stop
