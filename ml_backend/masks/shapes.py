"""Masks of simple shapes: boxes, whole pictures, and unions of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from ml_backend.instances import Rle
from ml_backend.masks.rle import toggles_to_rle

__all__ = ["box_rle", "boxes_of", "union_rle", "whole_rle"]


def box_rle(box_xyxy: Sequence[float], hw: tuple[int, int]) -> Rle:
    """The filled box (x0, y0, x1, y1 in pixels, x1 and y1 exclusive), rounded to pixels and cut at the border
    of the image; a box inside the image covers at least one pixel.
    """
    height, width = hw
    x0, y0 = (min(max(round(float(v)), 0), n - 1) for v, n in zip(box_xyxy[:2], (width, height), strict=True))
    x1 = min(max(round(float(box_xyxy[2])), x0 + 1), width)
    y1 = min(max(round(float(box_xyxy[3])), y0 + 1), height)
    columns = np.arange(x0, x1, dtype=np.int64) * height
    toggles: npt.NDArray[np.int64] = np.stack([columns + y0, columns + y1], axis=1).reshape(-1)
    if y1 - y0 == height:  # the end of one column is the start of the next
        toggles = toggles[[0, -1]]
    return toggles_to_rle(toggles[toggles < height * width], hw)


def boxes_of(masks: Sequence[Rle]) -> npt.NDArray[np.float32]:
    """(n, 4) smallest boxes around the masks: x0, y0, x1, y1 in pixels, x1 and y1 exclusive; zeros for an
    empty mask."""
    found = np.asarray(coco.toBbox([dict(rle) for rle in masks]), np.float32).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found


def whole_rle(hw: tuple[int, int]) -> Rle:
    """The mask that covers the whole picture."""
    return toggles_to_rle(np.zeros(1, np.int64), hw)


def union_rle(masks: Sequence[Rle]) -> Rle:
    """The pixels of any of the masks, which are of one size. Raises ValueError when there is none."""
    if not masks:
        raise ValueError("a union needs at least one mask")
    merged: dict[str, Any] = coco.merge([dict(rle) for rle in masks])
    counts = merged["counts"]
    return {
        "size": [int(v) for v in merged["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else str(counts),
    }
