"""Which instances of two pools are nearly the same mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.arrays import Ints

__all__ = ["CARRY_OVER_IOU", "match_pools"]

CARRY_OVER_IOU = 0.9
"""From this IoU on, an answer about one mask is a hint for the other. It is the other's answer only where the
two are the same pixel by pixel: a mask with IoU 0.9 to a good one may have 0.65 to the object."""


def match_pools(
    old: npt.ArrayLike,
    new: npt.ArrayLike,
    iou: npt.ArrayLike,
    same_label: npt.ArrayLike,
    *,
    threshold: float = CARRY_OVER_IOU,
) -> tuple[Ints, Ints]:
    """One-to-one pairs of instances of two pools that are nearly the same mask.

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
