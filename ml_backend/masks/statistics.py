"""Numbers about the shapes of many masks, computed from their RLEs without decoding pixels.

Array operations handle all masks together; the cost grows with the number of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.masks.run_lengths import read_run_lengths, sum_within

__all__ = ["STATISTICS", "Runs", "filled_masks", "mask_runs", "mask_statistics"]

STATISTICS = ("area_share", "log_area", "aspect", "extent", "ellipse_fill", "border", "raggedness")
"""Columns of ``mask_statistics``."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Foreground runs of n masks, column by column: a run never crosses to the next column.

    mask : (r,) index of the mask; column, row : (r,) where the run starts; length : (r,) pixels;
    hw : (n, 2) image sizes
    """

    mask: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    hw: npt.NDArray[np.int64]


def mask_statistics(rles: Sequence[Rle | str], hw: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
    """(n, 7) float32, columns ``STATISTICS``, of n COCO RLEs (or their counts alone, with ``hw``).

    ``hw`` is (n, 2) or (2,) height and width, needed where bare counts are given.

    * area_share: share of the image, 0..1; log_area: ln(1 + pixels)
    * aspect: |ln(width / height)| of the box, 0 = square; extent: share of the box that is mask, 0..1
    * ellipse_fill: area divided by the area of the ellipse with the same second moments; 1 = ellipse,
      less = hollow or bent
    * border: share of the box's outline length that lies on the image border, 0..1
    * raggedness: number of runs per column of the box, minus 1; 0 = every column is one run

    Empty masks give zeros. Raises BadInput naming the first damaged mask. O(runs) time and memory.
    """
    runs = mask_runs(rles, hw)
    n = len(runs.hw)
    area = np.bincount(runs.mask, runs.length, n)
    some = area > 0
    safe = np.where(some, area, 1)
    x0, x1, y0, y1 = _bounds(runs, n)
    width, height = np.where(some, x1 - x0, 1), np.where(some, y1 - y0, 1)
    image_h, image_w = runs.hw[:, 0], runs.hw[:, 1]

    length = runs.length.astype(np.float64)
    mid = runs.row + (length - 1) / 2
    mean_x = np.bincount(runs.mask, length * runs.column, n) / safe
    mean_y = np.bincount(runs.mask, length * mid, n) / safe
    dx, dy = runs.column - mean_x[runs.mask], mid - mean_y[runs.mask]
    # a pixel is a unit square (1/12) and a run of l pixels has variance (l² − 1)/12 around its middle
    var_x = np.bincount(runs.mask, length * dx**2, n) / safe + 1 / 12
    var_y = np.bincount(runs.mask, length * (dy**2 + (length**2 - 1) / 12), n) / safe + 1 / 12
    cov = np.bincount(runs.mask, length * dx * dy, n) / safe
    ellipse = 4 * np.pi * np.sqrt(np.maximum(var_x * var_y - cov**2, 1e-6))

    touch = (
        np.bincount(runs.mask, runs.row == 0, n)
        + np.bincount(runs.mask, runs.row + runs.length == image_h[runs.mask], n)
        + np.bincount(runs.mask, runs.length * (runs.column == 0), n)
        + np.bincount(runs.mask, runs.length * (runs.column == image_w[runs.mask] - 1), n)
    )
    columns = np.stack(
        [
            area / (image_h * image_w),
            np.log1p(area),
            np.abs(np.log(width / height)),
            area / (width * height),
            area / ellipse,
            np.minimum(touch / (2 * (width + height)), 1),
            np.maximum(np.bincount(runs.mask, minlength=n) / width - 1, 0),
        ],
        axis=1,
    )
    return np.where(some[:, None], columns, 0).astype(np.float32)


def filled_masks(rles: Sequence[Rle | str], hw: npt.ArrayLike | None = None) -> npt.NDArray[np.bool_]:
    """(n,) bool: masks with at least one pixel. Arguments, errors and cost as in ``mask_statistics``."""
    runs = mask_runs(rles, hw)
    return np.asarray(np.bincount(runs.mask, minlength=len(runs.hw)) > 0, np.bool_)


def mask_runs(rles: Sequence[Rle | str], hw: npt.ArrayLike | None = None) -> Runs:
    """Unpack n RLEs into foreground runs. Raises BadInput naming the first damaged mask."""
    counts, sizes = _texts(rles, hw)
    found = read_run_lengths(counts, sizes)
    start = sum_within(found.length, found.mask) - found.length
    inside = (found.place % 2 == 1) & (found.length > 0)
    return _split_columns(found.mask[inside], start[inside], found.length[inside], sizes)


def _texts(rles: Sequence[Rle | str], hw: npt.ArrayLike | None) -> tuple[list[str], npt.NDArray[np.int64]]:
    counts: list[str] = []
    for i, rle in enumerate(rles):
        text: object = rle if isinstance(rle, str) else rle.get("counts")
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        if not isinstance(text, str):
            raise BadInput("compressed counts are needed", field=f"rle[{i}]")
        counts.append(text)
    if hw is None:
        sizes = np.asarray([(0, 0) if isinstance(rle, str) else rle["size"] for rle in rles], np.int64)
    else:
        sizes = np.broadcast_to(np.asarray(hw, np.int64), (len(counts), 2))
    return counts, sizes.reshape(-1, 2)


def _split_columns(
    mask: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    hw: npt.NDArray[np.int64],
) -> Runs:
    height = hw[mask, 0]
    first, final = start // height, (start + length - 1) // height
    spans = final - first + 1
    which = np.repeat(np.arange(len(mask)), spans)
    column = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(spans) - spans, spans)
    low = np.maximum(start[which], column * height[which])
    high = np.minimum((start + length)[which], (column + 1) * height[which])
    return Runs(mask[which], column, low - column * height[which], high - low, hw)


def _bounds(runs: Runs, n: int) -> tuple[npt.NDArray[np.int64], ...]:
    far = np.int64(1) << 40
    x0, y0 = np.full(n, far), np.full(n, far)
    x1, y1 = np.zeros(n, np.int64), np.zeros(n, np.int64)
    np.minimum.at(x0, runs.mask, runs.column)
    np.maximum.at(x1, runs.mask, runs.column + 1)
    np.minimum.at(y0, runs.mask, runs.row)
    np.maximum.at(y1, runs.mask, runs.row + runs.length)
    return x0, x1, y0, y1
