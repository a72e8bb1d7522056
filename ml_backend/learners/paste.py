"""Mask probabilities on a small grid → COCO RLE at the size of the original image."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.instances import Rle

__all__ = ["crop_to_rle", "paste_masks"]


def paste_masks(
    probability: npt.NDArray[np.float32], box_xyxy: npt.NDArray[np.float32], hw: tuple[int, int]
) -> list[Rle]:
    """RLEs of masks ``probability`` (n, m, m) > 0.5 stretched over ``box_xyxy`` (n, 4), image pixels.

    Follows the sampling of Mask R-CNN: one zero cell around the grid, the box widened accordingly, so that
    masks end softly at the box. Work is done inside each box only: cost follows the objects, not the image.
    """
    if not len(probability):
        return []
    m = probability.shape[1]
    padded = np.pad(probability, ((0, 0), (1, 1), (1, 1)))
    centre = (box_xyxy[:, :2] + box_xyxy[:, 2:]) / 2
    half = (box_xyxy[:, 2:] - box_xyxy[:, :2]) / 2 * ((m + 2) / m)
    low = np.floor(centre - half).astype(np.int64)
    high = np.maximum(np.ceil(centre + half).astype(np.int64), low + 1)
    limit = np.array([hw[1], hw[0]])
    found: list[Rle] = []
    for grid, start, stop in zip(padded, low, high, strict=True):
        width, height = (int(v) for v in stop - start)
        inside = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        a, b = np.clip(start, 0, limit), np.clip(stop, 0, limit)
        part = inside[a[1] - start[1] : b[1] - start[1], a[0] - start[0] : b[0] - start[0]]
        found.append(crop_to_rle(part, (int(a[0]), int(a[1])), hw))
    return found


def crop_to_rle(crop: npt.NDArray[np.bool_], xy: tuple[int, int], hw: tuple[int, int]) -> Rle:
    """RLE at ``hw`` of a bitmap (h, w) whose upper left corner lies at ``xy``; all of it inside the image."""
    height, width = hw
    rows = crop.shape[0]
    # a zero below each column ends every run there; runs that touch across columns are joined after
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
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
