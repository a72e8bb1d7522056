"""Numbers about how well masks fit what is seen: is there an edge in the picture where the mask ends?

The detector's score and predicted IoU look at coarse features; these look at the pixels along the outline.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.instances import Rle
from ml_backend.masks.rle import decode_rle

__all__ = ["EDGES", "edge_statistics"]

EDGES = (
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

_MARGIN = 8
_SMALLEST = 4
"""Pixels below which a mask has no rim and no core to speak of."""


def edge_statistics(image: npt.NDArray[np.uint8], rles: Sequence[Rle]) -> npt.NDArray[np.float32]:
    """(n, 10) float32, columns ``EDGES``, of n masks on one picture.

    The rim is a band inside of the outline, 1 to 4 pixels wide, the core what it encloses, the outside a band
    of the same width around the mask. Grey values are 0..1, edges are lengths of Sobel gradients.

    * rim_contrast, core_contrast: mean grey of rim (core) minus that of the outside
    * brightness, texture: mean and spread of the grey values inside
    * outline_edge, outline_edge_spread: mean and spread of the gradient on the outline, three pixels wide
    * core_edge, outside_edge: mean gradient in core and outside; outside_texture: spread of the grey there
    * outline_to_inside: ln of outline_edge over the mean gradient inside: above 0 = the mask ends at an edge

    Parameters
    ----------
    image : (h, w, 3) uint8
    rles : COCO RLEs of the size of the image

    Masks of fewer than four pixels give zeros. Time O(pixels of the boxes).
    """
    found = np.zeros((len(rles), len(EDGES)), np.float32)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    for i, rle in enumerate(rles):
        mask = decode_rle(rle)
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(ys) or mask.sum() < _SMALLEST:
            continue
        rows = slice(max(0, int(ys[0]) - _MARGIN), int(ys[-1]) + _MARGIN + 1)
        columns = slice(max(0, int(xs[0]) - _MARGIN), int(xs[-1]) + _MARGIN + 1)
        found[i] = _one(mask[rows, columns].astype(np.uint8), grey[rows, columns])
    return found


def _one(mask: npt.NDArray[np.uint8], grey: npt.NDArray[np.uint8]) -> list[float]:
    value = grey.astype(np.float32) / 255.0
    width = int(np.clip(np.sqrt(int(mask.sum())) / 8.0, 1, 4))
    band = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    thin = np.ones((3, 3), np.uint8)
    inside = mask > 0
    core = cv2.erode(mask, band) > 0
    rim, outside = inside & ~core, (cv2.dilate(mask, band) > 0) & ~inside
    outline = (cv2.dilate(mask, thin) > 0) & ~(cv2.erode(mask, thin) > 0)
    slope = np.hypot(cv2.Sobel(value, cv2.CV_32F, 1, 0), cv2.Sobel(value, cv2.CV_32F, 0, 1))
    around = _mean(value, outside)
    return [
        _mean(value, rim) - around,
        _mean(value, core) - around,
        _mean(value, inside),
        _spread(value, inside),
        _mean(slope, outline),
        _mean(slope, core),
        _spread(value, outside),
        _spread(slope, outline),
        _mean(slope, outside),
        float(np.log(_mean(slope, outline) + 1e-3) - np.log(_mean(slope, inside) + 1e-3)),
    ]


def _mean(value: npt.NDArray[np.float32], where: npt.NDArray[np.bool_]) -> float:
    return float(value[where].mean()) if where.any() else 0.0


def _spread(value: npt.NDArray[np.float32], where: npt.NDArray[np.bool_]) -> float:
    return float(value[where].std()) if where.any() else 0.0
