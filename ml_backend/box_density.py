"""A cap on how many boxes may lie on one pixel: piles of boxes help nobody who corrects them.

active-learning-detect draws each box into a count of the size of the picture. Here no pixel is touched: the
boxes that were kept and meet the new one are few, since no pixel holds more than the cap.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

__all__ = ["within_density"]


def within_density(
    box_xyxy: npt.NDArray[np.float32],
    score: npt.NDArray[np.float32],
    *,
    at_most: int,
    always: Collection[int] = (),
) -> list[int]:
    """The rows that stay when no pixel may lie in more than ``at_most`` boxes; ascending.

    Boxes are taken by descending score (equal scores: in order of rows). A box stays when none of its pixels
    lies in ``at_most`` boxes already. Boxes of ``always`` are taken first, and stay whatever they cover.

    Parameters
    ----------
    box_xyxy : (n, 4) corners in pixels. A box covers every pixel that it touches; one of no width or height
        covers none, and stays
    score : (n,) class scores
    at_most : boxes per pixel, 1 or more

    Raises ValueError when ``at_most`` is below 1. Time: O(n·m + n·d³) for m boxes kept and d of them that
    meet the box in question.
    """
    if at_most < 1:
        raise ValueError(f"at most {at_most} boxes per pixel would keep none")
    low, high = np.floor(box_xyxy[:, :2]), np.ceil(box_xyxy[:, 2:])
    forced = np.isin(np.arange(len(score)), list(always))
    kept = np.zeros(len(score), bool)
    for i in np.lexsort((-score, ~forced)).tolist():
        meets = np.flatnonzero(kept & (low < high[i]).all(axis=1) & (low[i] < high).all(axis=1))
        kept[i] = forced[i] or not (
            (low[i] < high[i]).all() and _deepest(low[meets], high[meets], low[i]) >= at_most
        )
    found: list[int] = np.flatnonzero(kept).tolist()
    return found


def _deepest(
    low: npt.NDArray[np.float32], high: npt.NDArray[np.float32], corner: npt.NDArray[np.float32]
) -> int:
    """The largest number of the (d, 4) boxes on one pixel of a box that all of them meet.

    ``corner`` is the lower corner of that box. A deepest pixel lies on the left edge of one box and the upper
    edge of one, cut off at ``corner``: d² places to look at.
    """
    if not len(low):
        return 0
    start = np.maximum(low, corner)
    covers = (low[None] <= start[:, None]) & (start[:, None] < high[None])  # (place, box, axis)
    x, y = covers[..., 0].astype(np.float32), covers[..., 1].astype(np.float32)
    return round(float((x @ y.T).max()))
