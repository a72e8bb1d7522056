"""Connected components of a mask: the pieces that people see as one thing each."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.instances import Rle
from ml_backend.masks.rle import decode_rle, rle_area, rle_box, toggles_to_rle

__all__ = ["MIN_COMPONENT_PX", "component_masks", "components", "place_mask"]

MIN_COMPONENT_PX: Final = 16
"""Smaller pieces are specks: nobody is asked about them and nobody misses them."""


def components(rle: Rle, *, min_area_px: int = MIN_COMPONENT_PX) -> list[Rle]:
    """The connected components of a mask (pixels that touch at a corner are connected), largest first.

    Those of less than ``min_area_px`` pixels are left out. The cost follows the box of the mask.
    """
    if rle_area(rle) < max(1, min_area_px):
        return []
    x0, y0, x1, y1 = (int(edge) for edge in rle_box(rle))
    mask = decode_rle(rle)
    hw = (mask.shape[0], mask.shape[1])
    return [
        place_mask(bitmap, (x0 + x, y0 + y), hw)
        for bitmap, (x, y) in component_masks(mask[y0:y1, x0:x1], min_area_px)
    ]


def component_masks(
    mask: npt.NDArray[np.bool_], min_area_px: int = MIN_COMPONENT_PX
) -> list[tuple[npt.NDArray[np.bool_], tuple[int, int]]]:
    """Each component of an (H, W) mask as the bitmap of its box and the (x, y) of the box, largest first."""
    import cv2  # the kinds are read where nothing of a picture is: the command line must start quickly

    _, parts, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=8
    )
    area = np.asarray(stats)[1:, cv2.CC_STAT_AREA]
    found = []
    for number in np.argsort(-area, kind="stable") + 1:
        x, y, width, height, size = (int(v) for v in stats[number])
        if size < max(1, min_area_px):
            break
        found.append((np.asarray(parts[y : y + height, x : x + width] == number, np.bool_), (x, y)))
    return found


def place_mask(bitmap: npt.NDArray[np.bool_], corner_xy: tuple[int, int], hw: tuple[int, int]) -> Rle:
    """The RLE of size ``hw`` of a small (h, w) bitmap whose top left pixel lies at ``corner_xy``.

    The cost follows the bitmap, not the picture.
    """
    height, width = bitmap.shape
    columns = np.zeros((width, height + 2), np.int8)  # an empty pixel around each column: no run crosses
    columns[:, 1:-1] = bitmap.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    toggles = (column + corner_xy[0]) * hw[0] + row + corner_xy[1]
    places, count = np.unique(toggles, return_counts=True)  # a run that ends a column may begin the next
    kept = places[(count % 2 == 1) & (places < hw[0] * hw[1])]
    return toggles_to_rle(kept.astype(np.int64), hw)
