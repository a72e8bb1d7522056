"""Sift masks that a segmenter gave for a whole picture: tidy them, drop those that cannot be and doubles."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.instances import Rle
from ml_backend.learners.mask_pasting import crop_to_rle
from ml_backend.learners.weak.candidates import Crop

__all__ = ["FoundMask", "apart", "found_mask", "without_doubles"]

Bools = npt.NDArray[np.bool_]

_SPECK = 0.1
"""Separate parts and holes smaller than this share of the mask are noise."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundMask:
    """A mask as a crop and as run lengths of the whole picture, and how far it is trusted.

    ``score`` is the expected IoU; ``trust`` is score times stability. All in 0..1.
    """

    crop: Crop
    area: int
    score: float
    stability: float
    rle: Rle

    @property
    def trust(self) -> float:
        return self.score * self.stability


def found_mask(
    mask: Bools, score: float, stability: float, *, min_px: int, max_px: float
) -> FoundMask | None:
    """The (H, W) mask without small separate parts and small holes; None where its area is impossible or its
    numbers are none.
    """
    if not np.isfinite([score, stability]).all():
        return None
    crop = _tidy(mask)
    area = 0 if crop is None else int(crop.inside.sum())
    if crop is None or not min_px <= area <= max_px:
        return None
    rle = crop_to_rle(crop.inside, (crop.x, crop.y), (mask.shape[0], mask.shape[1]))
    return FoundMask(crop, area, min(float(score), 1.0), min(float(stability), 1.0), rle)


def _tidy(mask: Bools) -> Crop | None:
    """The mask cut out, without small separate parts and small holes; None where nothing is left."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    if w == 0 or h == 0:
        return None
    inside = np.array(mask[y : y + h, x : x + w])
    least = _SPECK * int(inside.sum())
    inside &= ~_small(inside, least)
    around = np.pad(~inside, 1, constant_values=True)  # the frame joins all that lies outside into one part
    inside |= _small(around, least)[1:-1, 1:-1]
    x0, y0, w, h = cv2.boundingRect(inside.view(np.uint8))
    return Crop(int(x + x0), int(y + y0), np.array(inside[y0 : y0 + h, x0 : x0 + w]))


def _small(bitmap: Bools, pixels: float) -> Bools:
    """The 4-connected parts of a bitmap with fewer pixels, never the largest."""
    count, part, stats, _ = cv2.connectedComponentsWithStats(bitmap.astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < pixels
    small[0] = False  # part 0 is what is not set
    if count > 1:
        small[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))] = False
    return np.asarray(small[part])


def without_doubles(masks: list[FoundMask], limit: float) -> list[FoundMask]:
    """The most trusted first, without masks whose IoU with a better one is above ``limit``."""
    return _greedy(masks, limit, share_of_smaller=False)


def apart(masks: list[FoundMask], limit: float) -> list[FoundMask]:
    """The same for pairs that share more than ``limit`` of the smaller of both."""
    return masks if limit >= 1 else _greedy(masks, limit, share_of_smaller=True)


def _greedy(masks: list[FoundMask], limit: float, *, share_of_smaller: bool) -> list[FoundMask]:
    masks = sorted(masks, key=lambda mask: -mask.trust)
    if len(masks) < 2:
        return masks
    rles = [mask.rle for mask in masks]
    # with "crowd" the IoU of pycocotools is the share of the first mask that lies in the second
    shared = np.asarray(coco_mask.iou(rles, rles, [int(share_of_smaller)] * len(rles)))
    shared = np.maximum(shared, shared.T)
    dropped = np.zeros(len(masks), np.bool_)
    kept = []
    for i, mask in enumerate(masks):
        if not dropped[i]:
            kept.append(mask)
            dropped |= shared[i] > limit
    return kept
