"""Masks as COCO run lengths (RLE): made, read and measured without pixels where possible.

COCO RLE runs column by column, Label Studio's brush RLE row by row. Both are lists of *toggles*: the
positions at which the value changes. ``transpose_toggles`` turns one into the other in O(k log k) for k
toggles, whatever the size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from ml_backend.instances import Rle

__all__ = [
    "DENSE",
    "decode_rle",
    "empty_rle",
    "encode_mask",
    "fill_toggles",
    "mask_toggles",
    "rle_area",
    "rle_box",
    "rle_hw",
    "rle_iou",
    "rle_merge",
    "rle_toggles",
    "toggles_to_rle",
    "transpose_toggles",
]
DENSE: Final = 16
"""Masks with more than one toggle in so many pixels (noise) go by way of the pixels, which is faster."""

Ints = npt.NDArray[np.int64]


# COCO RLE


def encode_mask(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> Rle:
    """COCO RLE of an (H, W) mask (non-zero = inside)."""
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H, W), got shape {mask.shape}")
    height, width = (int(n) for n in mask.shape)
    toggles = mask_toggles(mask)
    if len(toggles) * DENSE <= mask.size:
        return toggles_to_rle(transpose_toggles(toggles, height, width), (height, width))
    found = coco.encode(np.asfortranarray(mask != 0).view(np.uint8))
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def mask_toggles(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> Ints:
    """Row-major toggles of an (H, W) mask."""
    flat = np.ascontiguousarray(mask if mask.dtype == np.bool_ else mask != 0).reshape(-1)
    return np.flatnonzero(np.diff(flat, prepend=False)).astype(np.int64, copy=False)


def decode_rle(rle: Rle) -> npt.NDArray[np.bool_]:
    """(H, W) bool mask, C-contiguous."""
    height, width = rle_hw(rle)
    toggles = rle_toggles(rle)
    if len(toggles) * DENSE > height * width:
        columns = fill_toggles(toggles, height * width).reshape(width, height)
        return np.ascontiguousarray(columns.T)
    return fill_toggles(transpose_toggles(toggles, width, height), height * width).reshape(height, width)


def empty_rle(hw: tuple[int, int]) -> Rle:
    """The mask of size ``hw`` without a pixel."""
    return toggles_to_rle(np.zeros(0, np.int64), hw)


def rle_area(rle: Rle) -> int:
    """Number of pixels."""
    return int(coco.area(rle))


def rle_box(rle: Rle) -> tuple[float, float, float, float]:
    """Tight box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; all zero for an empty mask."""
    x, y, w, h = coco.toBbox(rle)
    return float(x), float(y), float(x + w), float(y + h)


def rle_iou(a: Sequence[Rle], b: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """(len(a), len(b)) mask IoU; masks must be of one size."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    return np.asarray(coco.iou(list(a), list(b), [0] * len(b)), np.float64)


def rle_merge(rles: Sequence[Rle], *, intersect: bool = False) -> Rle:
    """Union (or intersection) of masks of one size."""
    found = coco.merge(list(rles), intersect=intersect)
    counts = found["counts"]
    return {"size": [int(x) for x in found["size"]], "counts": counts.decode("ascii")}


def rle_hw(rle: Rle) -> tuple[int, int]:
    """(height, width)."""
    height, width = cast("Sequence[int]", rle["size"])
    return int(height), int(width)


def rle_toggles(rle: Rle) -> Ints:
    """Positions (column-major) at which a COCO RLE changes value, sorted; even entries switch on."""
    text = rle["counts"]
    raw = np.frombuffer(
        text.encode("ascii") if isinstance(text, str) else bytes(cast("bytes", text)), np.uint8
    )
    if len(raw) == 0:
        return np.zeros(0, np.int64)
    chars = raw.astype(np.int64) - 48
    last = (chars & 0x20) == 0
    start = np.flatnonzero(np.concatenate(([True], last[:-1])))
    position = np.arange(len(chars)) - np.repeat(start, np.diff(np.append(start, len(chars))))
    value = np.add.reduceat((chars & 0x1F) << (5 * position), start)
    stop = np.flatnonzero(last)
    negative = (chars[stop] & 0x10) != 0
    value -= np.where(negative, np.int64(1) << (5 * (position[stop] + 1)), 0)
    counts = value.copy()  # counts after the third are differences to the one two before
    counts[1::2] = np.cumsum(value[1::2])
    if len(value) > 2:
        counts[2::2] = np.cumsum(value[2::2])
    toggles = np.cumsum(counts)
    height, width = rle_hw(rle)
    toggles = toggles[toggles < height * width]  # the end of the image is no toggle
    return _cancel_pairs(toggles)


def toggles_to_rle(toggles: Ints, hw: tuple[int, int]) -> Rle:
    """COCO RLE from sorted column-major toggles."""
    height, width = hw
    counts = np.diff(np.concatenate(([0], toggles, [height * width])))
    found = coco.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def transpose_toggles(toggles: Ints, major: int, minor: int) -> Ints:
    """Toggles of the transposed scan.

    ``toggles`` are sorted positions in a scan of ``major`` lines of ``minor`` pixels; returns those of the
    scan of ``minor`` lines of ``major`` pixels. O(k log k) time and memory in the number of toggles of both
    scans.
    """
    if len(toggles) == 0:
        return toggles
    # Where a pixel differs from its neighbour one line before = XOR of the scan and itself shifted by a line.
    ends = toggles if len(toggles) % 2 == 0 else np.append(toggles, major * minor)
    changes = _cancel_pairs(np.sort(np.concatenate((ends, ends + minor))))
    start, stop = changes[0::2], changes[1::2]
    length = stop - start
    offset = np.cumsum(length) - length
    position = np.repeat(start - offset, length) + np.arange(int(length.sum()))
    line, pixel = np.divmod(position, minor)
    found = np.sort(
        pixel * major + line
    )  # line == major (one past the end) is the first pixel of the next row
    found = _cancel_pairs(found)
    return found[found < major * minor]


def fill_toggles(toggles: Ints, size: int) -> npt.NDArray[np.bool_]:
    """(size,) bool scan that changes value at the toggles."""
    runs = np.diff(np.concatenate(([0], toggles, [size])))
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _cancel_pairs(values: Ints) -> Ints:
    """Sorted values with equal neighbours removed two by two (two toggles at one place are none)."""
    fresh = values[1:] != values[:-1]
    if fresh.all():
        return values
    start = np.concatenate(([0], np.flatnonzero(fresh) + 1))
    count = np.diff(start, append=len(values))
    return np.asarray(values[start[count % 2 == 1]], np.int64)
