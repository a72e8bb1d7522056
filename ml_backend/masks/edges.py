"""Numbers about how well masks fit what is seen: is there an edge in the picture where the mask ends?

The detector's score and predicted IoU look at coarse features; these look at the pixels along the outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.instances import Rle
from ml_backend.masks.statistics import Runs, mask_runs

__all__ = ["EDGES", "edge_statistics"]

EDGES: Final = (
    "rim_contrast",
    "core_contrast",
    "brightness",
    "texture",
    "outline_edge",
    "core_edge",
    "outside_texture",
    "outline_edge_spread",
    "outside_edge",
    "outline_to_inside",
)
"""Columns of ``edge_statistics``."""

_WIDEST: Final = 4
"""Pixels a band inside or outside of the outline is wide at most."""
_MARGIN: Final = 2 * _WIDEST
"""Pixels looked at around the box of a mask: the band outside, and the neighbours of its gradients."""
_SMALLEST: Final = 4
"""Pixels below which a mask has no rim and no core to speak of."""
_LARGEST: Final = 1 << 20
"""Larger boxes, in pixels, are looked at in steps: a mask of a whole slide takes no seconds or gigabytes."""

Bits = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]


def edge_statistics(image: npt.NDArray[np.uint8], rles: Sequence[Rle]) -> npt.NDArray[np.float32]:
    """(n, 10) float32, columns ``EDGES``, of n masks on one picture; always finite.

    Equal input gives equal bits. The rim is a band inside of the outline, 1 to 4 pixels wide, the core what
    it encloses, the outside a band of the same width around the mask. Grey values are 0..1, edges are lengths
    of Sobel gradients. Where the picture ends, a mask has no outline and no rim.

    * rim_contrast, core_contrast: mean grey of rim (core) minus that of the outside
    * brightness, texture: mean and spread of the grey values inside
    * outline_edge, outline_edge_spread: mean and spread of the gradient on the outline, three pixels wide
    * core_edge, outside_edge: mean gradient in core and outside; outside_texture: spread of the grey there
    * outline_to_inside: ln of outline_edge over the mean gradient inside: above 0 = the mask ends at an edge

    Parameters
    ----------
    image : (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) uint8: grey, RGB, or RGBA, whose last channel is ignored
    rles : COCO RLEs of the size of the image

    A number about parts that a mask does not have is 0; masks of fewer than four pixels give zeros. Time
    and memory: O(pixels of the image), once, and O(pixels of its box) for each mask. Raises ValueError when
    the image has another shape or type or the masks have another size, BadInput when an RLE is damaged.
    """
    found = np.zeros((len(rles), len(EDGES)), np.float32)
    grey = _grey(image)
    if not len(rles) or not grey.size:
        return found
    runs = mask_runs(rles)
    if (runs.hw != grey.shape).any():
        other = runs.hw[(runs.hw != grey.shape).any(axis=1)][0]
        raise ValueError(f"a mask is {other[0]}×{other[1]} (height × width), the image {grey.shape}")
    ends = np.searchsorted(runs.mask, np.arange(len(rles) + 1))
    for i, (first, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        if first < end:
            mask, value = _cut(runs, slice(first, end), grey)
            if np.count_nonzero(mask) >= _SMALLEST:
                found[i] = _one(mask, value)
    return found


def _grey(image: npt.NDArray[np.uint8]) -> Grey:
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4):
        raise ValueError(
            f"an image is (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) uint8, got {image.dtype} {image.shape}"
        )
    if channels == 1 or not image.size:
        return image.reshape(image.shape[:2]) if image.size else np.zeros(image.shape[:2], np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if channels == 3 else cv2.COLOR_RGBA2GRAY)
    return np.asarray(grey, np.uint8)


def _cut(runs: Runs, mine: slice, grey: Grey) -> tuple[Bits, Values]:
    """One mask, 0 or 1, and the grey values, of its box and a margin."""
    column, row, length = runs.column[mine], runs.row[mine], runs.length[mine]
    top, bottom = int(row.min()), int((row + length).max())
    left, right = int(column.min()), int(column.max()) + 1
    step = 1 + isqrt(((bottom - top) * (right - left) - 1) // _LARGEST)
    margin = _MARGIN * step
    top, left = max(0, top - margin), max(0, left - margin)
    bottom, right = min(grey.shape[0], bottom + margin), min(grey.shape[1], right + margin)
    height, width = bottom - top, right - left
    change = np.zeros(height * width + 1, np.int8)
    start = (column - left) * height + row - top
    change[start] += 1
    change[start + length] -= 1  # a run may end where the next column's begins: both count
    mask = np.cumsum(change[:-1], dtype=np.int8).view(np.uint8).reshape(width, height).T
    part = grey[top:bottom:step, left:right:step]
    return np.ascontiguousarray(mask[::step, ::step]), part.astype(np.float32, order="C") / np.float32(255)


def _one(mask: Bits, value: Values) -> list[float]:
    width = int(np.clip(np.sqrt(np.count_nonzero(mask)) / 8.0, 1, _WIDEST))
    band = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    thin = np.ones((3, 3), np.uint8)
    core = cv2.erode(mask, band)
    rim, outside = mask - core, cv2.dilate(mask, band) - mask
    outline = cv2.dilate(mask, thin) - cv2.erode(mask, thin)
    dx, dy = cv2.Sobel(value, cv2.CV_32F, 1, 0), cv2.Sobel(value, cv2.CV_32F, 0, 1)
    slope = np.sqrt(dx * dx + dy * dy)  # the last bit of cv2.magnitude depends on where arrays lie in memory
    brightness, texture = _mean_and_spread(value, mask)
    around, outside_texture = _mean_and_spread(value, outside)
    ends, ends_spread = _mean_and_spread(slope, outline)
    within = _mean(slope, mask)
    has_core, has_rim, has_outside = core.any(), rim.any(), outside.any()
    return [
        _mean(value, rim) - around if has_rim and has_outside else 0.0,
        _mean(value, core) - around if has_core and has_outside else 0.0,
        brightness,
        texture,
        ends,
        _mean(slope, core),
        outside_texture,
        ends_spread,
        _mean(slope, outside),
        float(np.log(ends + 1e-3) - np.log(within + 1e-3)) if outline.any() else 0.0,
    ]


def _mean(value: cv2.typing.MatLike, where: cv2.typing.MatLike) -> float:
    return float(cv2.mean(value, mask=where)[0])


def _mean_and_spread(value: cv2.typing.MatLike, where: cv2.typing.MatLike) -> tuple[float, float]:
    """Both are 0 where there is no pixel."""
    mean, spread = cv2.meanStdDev(value, mask=where)
    return float(mean[0, 0]), float(spread[0, 0])
