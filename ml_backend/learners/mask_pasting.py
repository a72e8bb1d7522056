"""Mask probabilities on a small grid → COCO RLE at the size of the original image."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.instances import Rle

__all__ = ["crop_to_rle", "paste_masks", "without_specks"]

_SPECK = 0.05
"""A separate part smaller than this share of the mask is noise."""
_PINHOLE = 0.02
"""A hole smaller than this share of the mask is noise."""


def without_specks(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Remove small separate parts and small holes from masks; grids (n, m, m) -> (n, m, m) float32.

    A mask head trained on few pictures leaves scattered cells at the edge of a mask, which people would have
    to erase one by one. With a detector trained on nuclei 6 % of the masks had some. COCO AP does not change.
    """
    tidy = probability.copy()
    for grid in tidy:
        inside = np.asarray(grid > 0.5)
        area = int(inside.sum())
        grid[_small_parts(inside, _SPECK * area)] = 0.0
        # Holes are found after the specks are gone. The frame joins everything outside into one part.
        outside = np.pad(grid <= 0.5, 1, constant_values=True)
        grid[_small_parts(outside, _PINHOLE * area)[1:-1, 1:-1]] = 1.0
    return tidy


def _small_parts(bitmap: npt.NDArray[np.bool_], cells: float) -> npt.NDArray[np.bool_]:
    """The 4-connected parts of a bitmap that hold fewer than ``cells`` cells, never the largest one."""
    count, part, stats, _ = cv2.connectedComponentsWithStats(bitmap.astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < cells
    small[0] = False  # part 0 is the background
    if count > 1:
        small[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))] = False
    return np.asarray(small[part])


def paste_masks(
    probability: npt.NDArray[np.float32],
    box_xyxy: npt.NDArray[np.float32],
    hw: tuple[int, int],
    *,
    lag_px: float = 0.0,
) -> list[Rle]:
    """RLEs of masks ``probability`` (n, m, m) > 0.5 stretched over ``box_xyxy`` (n, 4), image pixels.

    The value at each pixel centre is interpolated bilinearly from the grid; outside the grid it is 0. The
    network may place its masks ``lag_px`` image pixels too far up and left; they are moved back by that much.
    Only pixels inside the boxes are computed. A mask may be empty (see ``ml_backend.masks.empty``).
    """
    m = probability.shape[1] if probability.ndim == 3 else 0
    limit = np.array([hw[1], hw[0]])
    cell = np.maximum(box_xyxy[:, 2:] - box_xyxy[:, :2], 1e-3) / max(m, 1)
    # half a cell beyond the box the interpolated value falls to half of the outermost cell's
    low = np.clip(np.floor(box_xyxy[:, :2] - cell / 2 + lag_px), 0, limit).astype(np.int64)
    high = np.clip(np.ceil(box_xyxy[:, 2:] + cell / 2 + lag_px), 0, limit).astype(np.int64)
    offset = (low + 0.5 - lag_px - box_xyxy[:, :2]) / cell - 0.5  # grid index of the first pixel centre
    found: list[Rle] = []
    for grid, start, stop, first, size in zip(probability, low, high, offset, cell, strict=True):
        width, height = (int(v) for v in stop - start)
        inside = np.zeros((max(height, 0), max(width, 0)), bool)
        if inside.size:
            look_up = np.array([[1 / size[0], 0, first[0]], [0, 1 / size[1], first[1]]])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            inside = cv2.warpAffine(grid, look_up, (width, height), flags=flags, borderValue=0) > 0.5
        found.append(crop_to_rle(np.asarray(inside), (int(start[0]), int(start[1])), hw))
    return found


def crop_to_rle(crop: npt.NDArray[np.bool_], xy: tuple[int, int], hw: tuple[int, int]) -> Rle:
    """RLE at ``hw`` of a bitmap (h, w) whose upper left corner lies at ``xy``; all of it inside the image."""
    height, width = hw
    rows = crop.shape[0]
    # a zero below each column ends every run there; runs that go on in the next column are joined below
    column = np.zeros((crop.shape[1], rows + 1), np.int8)
    column[:, :rows] = crop.T
    step = np.diff(column.ravel(), prepend=0)
    start, stop = np.flatnonzero(step == 1), np.flatnonzero(step == -1)
    origin = xy[0] * height + xy[1]
    start = origin + (start // (rows + 1)) * height + start % (rows + 1)
    stop = origin + (stop // (rows + 1)) * height + stop % (rows + 1)
    apart = start[1:] != stop[:-1]
    start = np.concatenate([start[:1], start[1:][apart]])
    stop = np.concatenate([stop[:-1][apart], stop[-1:]])
    edges = np.stack([start, stop], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
