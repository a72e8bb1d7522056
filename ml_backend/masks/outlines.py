"""Masks to polygons within a tolerance, with the IoU of the result; and polygons to masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.masks.rle import decode_rle, empty_rle, rle_box, rle_iou

__all__ = ["FAITHFUL_IOU", "check_outline", "outline_rings", "polygon_to_rle", "rle_to_polygon"]

FAITHFUL_IOU: Final = 0.95
"""A polygon whose IoU with its mask is lower does not show the mask."""
_LEAST_TOLERANCE_PX: Final = 0.1
_LONGEST_OUTLINE_PX: Final = 2_000_000
_LONGEST_SIDE_PX: Final = 100_000_000
"""COCO's fill counts fifths of pixels in 32 bits"""
_NEAR_ENOUGH: Final = 0.99
"""Where holes and further parts cost most of the IoU, a polygon with this share of the best one is enough."""


def outline_rings(
    inside: npt.NDArray[np.bool_] | npt.NDArray[np.uint8], *, holes: bool
) -> Sequence[npt.NDArray[np.int32]]:
    """Closed rings through the outermost pixels of each part of an (H, W) mask, and of each hole if asked.

    A ring is (k, 1, 2) int32, x and y of every pixel along it, in the form of OpenCV's contours.
    """
    which = cv2.RETR_CCOMP if holes else cv2.RETR_EXTERNAL
    rings, _ = cv2.findContours(np.ascontiguousarray(inside, np.uint8), which, cv2.CHAIN_APPROX_NONE)
    return cast("Sequence[npt.NDArray[np.int32]]", rings)


def polygon_to_rle(points: npt.NDArray[np.float64], hw: tuple[int, int]) -> Rle:
    """Fill a polygon of (n, 2) corners (x, y) in pixels; the part outside the image is cut off.

    A pixel belongs to the mask when its centre lies in the polygon (COCO's rule, up to its rounding).
    """
    if not np.isfinite(points).all():
        raise BadRegion("a corner is not a finite number", field="value.points")
    height, width = hw
    limit = 4 * max(height, width) + 1  # keeps the sums below exact
    ring = _cut(np.clip(points, -limit, limit), width, height)
    if len(ring) < 3:
        return empty_rle(hw)
    check_outline(ring, hw)
    found = coco.frPyObjects([ring.reshape(-1).tolist()], height, width)[0]
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def check_outline(ring: npt.NDArray[np.float64], hw: tuple[int, int], *, field: str = "value.points") -> None:
    """Raise BadRegion, naming ``field``, for a closed ring of (n, 2) corners that COCO's fill would take
    gigabytes for: it stores five points for every pixel along the ring.
    """
    along = np.abs(np.roll(ring, -1, axis=0) - ring).max(axis=1).sum()
    if along > _LONGEST_OUTLINE_PX or max(hw) > _LONGEST_SIDE_PX:
        raise BadRegion(
            f"an outline of {along:.0f} pixels on an image of {hw[1]}×{hw[0]} is too long to be one",
            field=field,
            hint="Draw the object as a mask instead",
        )


def _cut(ring: npt.NDArray[np.float64], width: int, height: int) -> npt.NDArray[np.float64]:
    """The part of a closed ring inside the image, as one ring (Sutherland and Hodgman 1974).

    COCO's fill needs all corners inside. Parts that the border cuts off from each other stay joined along the
    border, where they enclose nothing.
    """
    for axis, edge, side in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        if not len(ring):
            break
        ahead = np.roll(ring, -1, axis=0)
        depth, depth_ahead = side * (ring[:, axis] - edge), side * (ahead[:, axis] - edge)
        crosses = (depth >= 0) != (depth_ahead >= 0)
        if not crosses.any():
            ring = ring if depth[0] >= 0 else ring[:0]
            continue
        share = np.where(crosses, depth, 0.0) / np.where(crosses, depth - depth_ahead, 1.0)
        meet = ring + share[:, None] * (ahead - ring)
        meet[:, axis] = edge
        keep = np.stack([crosses, depth_ahead >= 0], axis=1)
        ring = np.stack([meet, ahead], axis=1)[keep]
    return np.clip(ring, 0, (width, height))  # a last rounding


def rle_to_polygon(rle: Rle, *, tolerance_px: float = 1.0) -> tuple[npt.NDArray[np.float64], float]:
    """Outline of the largest part of a mask as (n, 2) corners in pixels, and its IoU with the whole mask.

    The outline runs along pixel edges and is thinned (Douglas-Peucker) so that no point of it moves by more
    than ``tolerance_px``. A thin mask can vanish when its two sides move by a pixel, so the tolerance is
    halved until the IoU is at least ``FAITHFUL_IOU``. Holes and smaller parts are lost all the same; the IoU
    says how much that was. Raises BadRegion on an empty mask.
    """
    height, width = int(rle["size"][0]), int(rle["size"][1])  # type: ignore[index]
    x0, y0, x1, y1 = (int(v) for v in rle_box(rle))
    if x1 <= x0 or y1 <= y0:
        raise BadRegion("an empty mask has no outline", field="rle")
    crop = decode_rle(rle)[y0:y1, x0:x1].view(np.uint8)
    # Twice as large, the outline of pixel centres can be moved by half a pixel onto the pixels' edges.
    large = np.zeros((2 * crop.shape[0] + 2, 2 * crop.shape[1] + 2), np.uint8)
    large[1:-1, 1:-1] = crop.repeat(2, 0).repeat(2, 1)
    ring = max(outline_rings(large, holes=False), key=cv2.contourArea)

    def thinned(tolerance: float) -> tuple[npt.NDArray[np.float64], float]:
        thin = cv2.approxPolyDP(ring, 2 * tolerance, closed=True) if tolerance > 0 else ring
        if len(thin) < 3:
            polygon = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
        else:
            polygon = (thin.reshape(-1, 2).astype(np.float64) - 0.5) / 2 + (x0, y0)
            polygon = np.clip(polygon, 0, (width, height))
        return polygon, float(rle_iou([polygon_to_rle(polygon, (height, width))], [rle])[0, 0])

    found = thinned(max(tolerance_px, 0.0))
    if found[1] >= FAITHFUL_IOU or tolerance_px <= 0:
        return found
    exact = thinned(0.0)
    wanted = min(FAITHFUL_IOU, _NEAR_ENOUGH * exact[1])
    while found[1] < wanted:
        tolerance_px /= 2
        if tolerance_px < _LEAST_TOLERANCE_PX:
            return exact
        found = thinned(tolerance_px)
    return found
