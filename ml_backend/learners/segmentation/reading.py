"""From probability maps to instances: one row per label, or one per connected component.

Arrays only. The maps are calibrated: of the pixels with probability p about the share p belongs to the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.instances import Rle
from ml_backend.masks.components import component_masks, place_mask
from ml_backend.masks.rle import encode_mask

__all__ = ["MOST_COMPONENTS", "Found", "find", "map_doubts", "predicted_iou"]

Floats = npt.NDArray[np.float32]

MOST_COMPONENTS = 400
"""Components kept per picture and label, the largest."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One row: a mask of a label with what its map says about it.

    ``score`` is the mean probability inside the mask, ``overlap`` the expected IoU with the true mask, both
    in 0..1; ``grid`` is the share of each feature cell that the mask covers, (h, w) float32.
    """

    label: int
    rle: Rle
    score: float
    overlap: float
    grid: Floats


def find(
    maps: Floats,
    threshold: Sequence[float],
    *,
    unit: str,
    min_area: int,
    grid_hw: tuple[int, int],
) -> list[Found]:
    """The rows of one picture. ``maps`` is (labels, H, W) float32 probabilities at its full size."""
    rows: list[Found] = []
    for label, (p, cut) in enumerate(zip(maps, threshold, strict=True)):
        inside = p > cut
        if not inside.any():
            continue
        if unit == "component":
            rows += _by_component(label, p, inside, min_area, grid_hw)
            continue
        hit = float(p[inside].sum(dtype=np.float64))
        area = int(inside.sum())
        missed = float(p.sum(dtype=np.float64)) - hit
        grid = cv2.resize(inside.astype(np.float32), grid_hw[::-1], interpolation=cv2.INTER_AREA)
        rows.append(
            Found(label, encode_mask(inside), hit / area, hit / (area + missed), np.asarray(grid, np.float32))
        )
    return rows


def _by_component(
    label: int, p: Floats, inside: npt.NDArray[np.bool_], min_area: int, grid_hw: tuple[int, int]
) -> list[Found]:
    rows = []
    outside = np.where(inside, np.float32(0), p)
    height, width = p.shape
    for bitmap, (x, y) in component_masks(inside, min_area)[:MOST_COMPONENTS]:
        h, w = bitmap.shape
        values = p[y : y + h, x : x + w][bitmap]
        hit, area = float(values.sum(dtype=np.float64)), len(values)
        # what a component misses lies close to it: a quarter of its size around its box
        rim = max(3, round(0.25 * max(h, w)))
        top, left = max(0, y - rim), max(0, x - rim)
        near = outside[top : y + h + rim, left : x + w + rim]
        missed = float(near.sum(dtype=np.float64))
        rle = place_mask(bitmap, (x, y), (height, width))
        grid = _cells(bitmap, (x, y), (height, width), grid_hw)
        rows.append(Found(label, rle, hit / area, hit / (area + missed), grid))
    return rows


def _cells(
    bitmap: npt.NDArray[np.bool_], corner: tuple[int, int], hw: tuple[int, int], grid_hw: tuple[int, int]
) -> Floats:
    """Pixels of a placed bitmap per feature cell, as a share of the largest count."""
    rows, columns = np.nonzero(bitmap)
    cell_y = (rows + corner[1]) * grid_hw[0] // hw[0]
    cell_x = (columns + corner[0]) * grid_hw[1] // hw[1]
    count = np.bincount(cell_y * grid_hw[1] + cell_x, minlength=grid_hw[0] * grid_hw[1])
    return np.asarray(count / count.max(), np.float32).reshape(grid_hw)


def predicted_iou(overlap: Floats, calibration: tuple[float, float]) -> Floats:
    """(n,) predicted IoU in 0..1 from the expected one, by a fitted line on the logit scale."""
    q = np.clip(overlap.astype(np.float64), 1e-4, 1 - 1e-4)
    z = calibration[0] * np.log(q / (1 - q)) + calibration[1]
    return np.asarray(1 / (1 + np.exp(-z)), np.float32)


def map_doubts(maps: Floats, threshold: Sequence[float]) -> dict[str, float]:
    """Doubts about a picture from its maps, each in 0..1.

    * entropy: mean entropy of a pixel, in bits, over labels
    * margin: mean closeness of a pixel to the threshold of its label
    * boundary: entropy in relation to what may be there (found pixels and expected missed ones), the largest
      over labels; favours neither pictures full of objects nor empty ones
    """
    if not maps.size:
        return {}
    p = np.clip(maps, 1e-6, 1 - 1e-6)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    cut = np.asarray(threshold, np.float32)[:, None, None]
    closeness = np.where(p > cut, (1 - p) / (1 - cut), p / cut)
    mass = (p > cut).sum(axis=(1, 2)) + np.where(p > cut, 0, p).sum(axis=(1, 2), dtype=np.float64)
    pixels = maps.shape[1] * maps.shape[2]
    # a twentieth of the picture at least: a faint stain on an empty picture is no great doubt
    boundary = bits.sum(axis=(1, 2), dtype=np.float64) / np.maximum(mass, pixels / 20)
    return {
        "entropy": float(bits.mean(dtype=np.float64)),
        "margin": float(closeness.mean(dtype=np.float64)),
        "boundary": float(min(1.0, boundary.max())),
    }
