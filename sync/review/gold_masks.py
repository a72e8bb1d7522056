"""Masks made wrong on purpose: gold questions whose answer is no, and bad examples for the instructions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.instances import Rle
from ml_backend.masks.rle import decode_rle, encode_mask

__all__ = ["half", "merged", "shifted", "wrong_mask"]


def shifted(rle: Rle) -> Rle | None:
    """The mask moved towards the middle of the image by about half its size; None when too little changes."""
    mask = decode_rle(rle).astype(np.uint8)
    x0, x1, y0, y1 = _bounds(mask)
    height, width = mask.shape
    dx = round(0.4 * (x1 - x0)) * (1 if x0 + x1 < width else -1)
    dy = round(0.3 * (y1 - y0)) * (1 if y0 + y1 < height else -1)
    return _different(mask, _moved(mask, dx, dy))


def half(rle: Rle) -> Rle | None:
    """One half of the mask, cut across its longer side; None when too little changes."""
    mask = decode_rle(rle).astype(np.uint8)
    x0, x1, y0, y1 = _bounds(mask)
    cut = mask.copy()
    if x1 - x0 >= y1 - y0:
        cut[:, (x0 + x1) // 2 :] = 0
    else:
        cut[(y0 + y1) // 2 :, :] = 0
    return _different(mask, cut)


def merged(rle: Rle, others: Sequence[Rle]) -> Rle | None:
    """The mask together with its nearest neighbour; None when none is nearer than the mask is large."""
    mask = decode_rle(rle).astype(np.uint8)
    x0, x1, y0, y1 = _bounds(mask)
    far = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    best: tuple[float, npt.NDArray[np.uint8]] | None = None
    for other_rle in others:
        other = decode_rle(other_rle).astype(np.uint8)
        if other.shape != mask.shape or not other.any():
            continue
        gap = float(far[other > 0].min())
        if gap <= max(x1 - x0, y1 - y0) and (best is None or gap < best[0]):
            best = gap, other
    return None if best is None else _different(mask, mask | best[1])


def _different(mask: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> Rle | None:
    """The ``other`` mask, if it clearly differs (IoU at most 0.7) and is not empty; None otherwise."""
    union = int((mask | other).sum())
    if not other.any() or int((mask & other).sum()) > 0.7 * union:
        return None
    return encode_mask(other)


def _bounds(mask: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """First column, end column, first row, end row."""
    y, x = np.nonzero(mask)
    return int(x.min()), int(x.max()) + 1, int(y.min()), int(y.max()) + 1


def _moved(mask: npt.NDArray[np.uint8], dx: int, dy: int) -> npt.NDArray[np.uint8]:
    height, width = mask.shape
    shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return np.asarray(cv2.warpAffine(mask, shift, (width, height), flags=cv2.INTER_NEAREST), np.uint8)


def wrong_mask(rle: Rle, rng: np.random.Generator) -> Rle | None:
    """A drawn mask moved, grown or cut until its IoU with the mask as drawn is between 0.3 and 0.65.

    None when no amount of any of the three gives such a mask.
    """
    mask = decode_rle(rle).astype(np.uint8)
    y, x = np.nonzero(mask)
    size = max(int(np.ptp(x)), int(np.ptp(y)), 2) + 1
    ways = [int(way) for way in rng.permutation(3)]
    for way in ways:
        for step in range(1, 12):
            amount = max(1, round(step * size / 12))
            other = _made_wrong(mask, way, amount, rng)
            union = int((mask | other).sum())
            iou = int((mask & other).sum()) / max(union, 1)
            if 0.3 <= iou <= 0.65:
                return encode_mask(other)
            if iou < 0.3:
                break
    return None


def _made_wrong(
    mask: npt.NDArray[np.uint8], way: int, amount: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    if way == 0:
        return _moved(mask, amount, amount // 2)
    if way == 1:
        kernel = np.ones((2 * amount + 1, 2 * amount + 1), np.uint8)
        return np.asarray(cv2.dilate(mask, kernel), np.uint8)
    cut = mask.copy()
    columns = np.flatnonzero(mask.any(axis=0))
    cut[:, columns[: min(amount, len(columns) - 1)]] = 0
    return cut
