"""Which instances of two pools are the same mask, and the answers that therefore hold for both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.answers import AnswerLog, Stream
from clustering.arrays import Ints

__all__ = ["CARRY_OVER_IOU", "carry_over", "match_pools"]

CARRY_OVER_IOU = 0.9
"""Two masks are the same mask, and share their answers, from this IoU on."""


def match_pools(
    old: npt.ArrayLike,
    new: npt.ArrayLike,
    iou: npt.ArrayLike,
    same_label: npt.ArrayLike,
    *,
    threshold: float = CARRY_OVER_IOU,
) -> tuple[Ints, Ints]:
    """One-to-one pairs of instances of two pools that are the same mask.

    Candidates are taken one after the other, highest IoU first. Pairs below ``threshold`` and pairs of
    different labels are never taken.

    Parameters
    ----------
    old, new : (c,) int, candidate pairs as rows of the two pools
    iou : (c,) mask IoU of each pair
    same_label : (c,) bool

    Returns
    -------
    old, new : (p,) int64, sorted by ``old``. Time O(c log c).

    Raises
    ------
    ValueError : the columns have different lengths or an IoU is not within 0..1
    """
    a, b = np.asarray(old, np.int64), np.asarray(new, np.int64)
    overlap, same = np.asarray(iou, np.float64), np.asarray(same_label, bool)
    if not len(a) == len(b) == len(overlap) == len(same):
        raise ValueError(f"candidate columns have {len(a)}, {len(b)}, {len(overlap)} and {len(same)} rows")
    if len(overlap) and not (np.isfinite(overlap).all() and overlap.min() >= 0 and overlap.max() <= 1 + 1e-9):
        raise ValueError("an IoU is not within 0..1")
    usable = np.flatnonzero(same & (overlap >= threshold))
    usable = usable[np.lexsort((b[usable], a[usable], -overlap[usable]))]
    a, b = a[usable], b[usable]
    chosen: list[Ints] = []
    # A candidate that comes first for both of its instances is a pair. Take those, drop what shares an
    # instance with them, repeat: the same result as one after the other.
    while len(a):
        _, first_a = np.unique(a, return_index=True)
        _, first_b = np.unique(b, return_index=True)
        pairs = np.intersect1d(first_a, first_b)
        chosen.append(np.stack([a[pairs], b[pairs]]))
        left = ~(np.isin(a, a[pairs]) | np.isin(b, b[pairs]))
        a, b = a[left], b[left]
    if not chosen:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    both = np.concatenate(chosen, axis=1)
    both = both[:, np.argsort(both[0], kind="stable")]
    return both[0], both[1]


def carry_over(
    log: AnswerLog,
    old: npt.ArrayLike,
    new: npt.ArrayLike,
    iou: npt.ArrayLike,
    same_label: npt.ArrayLike,
    *,
    threshold: float = CARRY_OVER_IOU,
) -> tuple[AnswerLog, Ints]:
    """The answers of an earlier pool that also answer the new pool.

    Carried answers are no random sample of the new pool, and no test must take them for one. So they come
    back with ``cluster`` -1, stream SEARCH and inclusion 1. They verify their items and teach the verifier.

    Parameters
    ----------
    log : answers about the old pool
    old, new, iou, same_label : candidate pairs, see ``match_pools``

    Returns
    -------
    carried : AnswerLog over rows of the new pool, in the order of ``log``
    rows : (len(carried),) int64, the rows of ``log`` they come from

    Raises
    ------
    ValueError : see ``match_pools``
    """
    from_rows, to_rows = match_pools(old, new, iou, same_label, threshold=threshold)
    if not len(from_rows) or not len(log):
        return AnswerLog.empty(), np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(from_rows, log.item), len(from_rows) - 1)
    rows = np.flatnonzero(from_rows[at] == log.item)
    k = len(rows)
    carried = AnswerLog(
        item=to_rows[at[rows]],
        yes=log.yes[rows],
        cluster=np.full(k, -1, np.int64),
        stream=np.full(k, Stream.SEARCH, np.int8),
        inclusion=np.ones(k, np.float64),
    )
    return carried, rows
