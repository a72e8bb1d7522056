"""Masks as COCO run lengths (RLE): write, read and measure them, without decoding pixels where possible.

COCO RLE runs column by column, Label Studio's brush RLE row by row. Both are lists of *toggles*: the
positions at which the value changes. ``transpose_toggles`` turns one into the other in O(k log k) for k
toggles; the size of the image does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.masks.run_lengths import MAX_PIXELS, read_counts

__all__ = [
    "DENSE",
    "decode_rle",
    "empty_rle",
    "encode_mask",
    "fill_toggles",
    "mask_toggles",
    "parse_rle",
    "rle_area",
    "rle_box",
    "rle_hw",
    "rle_iou",
    "rle_toggles",
    "toggles_to_rle",
    "transpose_toggles",
]
DENSE: Final = 16
"""A mask with more than one toggle in this many pixels is noise, and faster to handle as pixels."""
_MOST_TOGGLES: Final = 1 << 24
"""A few bytes can describe lines whose transposed scan has a toggle for every pixel."""

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


def rle_hw(rle: Rle) -> tuple[int, int]:
    """(height, width)."""
    height, width = cast("Sequence[int]", rle["size"])
    return int(height), int(width)


def parse_rle(value: object, hw: tuple[int, int] | None = None, *, field: str = "rle") -> Rle:
    """COCO RLE from outside, checked: size, and run lengths that cover the image exactly.

    Parameters
    ----------
    value : object with ``size`` ([height, width]) and ``counts``: compressed text, or the run lengths as a
        list of integers
    hw : the size the mask must have; default: any
    field : what the errors name

    Returns
    -------
    the RLE with compressed counts as str. Raises BadInput when it is not an RLE or does not fit its size.
    """
    if not isinstance(value, Mapping):
        raise BadInput(f"a mask is an object with size and counts, got {type(value).__name__}", field=field)
    size = _parse_size(value.get("size"), f"{field}.size")
    if hw is not None and size != tuple(hw):
        raise BadInput(
            f"the mask is {size[0]}×{size[1]} (height × width), the image {hw[0]}×{hw[1]}",
            field=f"{field}.size",
        )
    counts = value.get("counts")
    if isinstance(counts, list | tuple):
        lengths = _parse_lengths(counts, size, f"{field}.counts")
        found = coco.frPyObjects({"size": list(size), "counts": lengths}, *size)
        return {"size": list(size), "counts": found["counts"].decode("ascii")}
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if not isinstance(counts, str):
        raise BadInput("counts must be text or a list of run lengths", field=f"{field}.counts")
    try:
        read_counts(counts, size)
    except BadInput as error:
        raise BadInput(error.message, field=f"{field}.counts") from None
    return {"size": list(size), "counts": counts}


def _parse_size(value: object, field: str) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise BadInput(f"size must be [height, width], got {value!r:.60}", field=field)
    height, width = value
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in (height, width)):
        raise BadInput(f"height and width must be whole numbers, got {value!r:.60}", field=field)
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise BadInput(f"{height}×{width} is not the size of an image", field=field)
    return height, width


def _parse_lengths(values: Sequence[object], hw: tuple[int, int], field: str) -> list[int]:
    pixels = hw[0] * hw[1]
    for i, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= pixels:
            raise BadInput(f"{value!r:.60} is not the length of a run", field=f"{field}[{i}]")
    lengths = cast("list[int]", list(values))
    if sum(lengths) != pixels:
        raise BadInput(f"the runs cover {sum(lengths)} pixels, the image has {pixels}", field=field)
    return lengths


def rle_toggles(rle: Rle) -> Ints:
    """Positions (column-major) at which a COCO RLE changes value, sorted; even entries switch on.

    Raises BadInput when the counts do not fit the size.
    """
    height, width = rle_hw(rle)
    text = rle["counts"]
    counts = text if isinstance(text, str) else cast("bytes", text).decode("latin-1")
    toggles = np.cumsum(read_counts(counts, (height, width)))
    return _cancel_pairs(toggles[toggles < height * width])  # the end of the image does not count as a toggle


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
    scans. Raises BadInput for stripes whose transposed scan would take gigabytes.
    """
    if len(toggles) == 0:
        return toggles
    # A pixel differs from its neighbour on the line before where (scan XOR scan shifted by a line) is 1.
    ends = toggles if len(toggles) % 2 == 0 else np.append(toggles, major * minor)
    changes = _cancel_pairs(np.sort(np.concatenate((ends, ends + minor))))
    start, stop = changes[0::2], changes[1::2]
    length = stop - start
    if length.sum() > _MOST_TOGGLES:
        raise BadInput(
            f"the mask changes {length.sum()} times from line to line, at most {_MOST_TOGGLES} are read",
            field="rle",
            hint="Is it noise, or stripes?",
        )
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
    """Sorted values without pairs of equal ones: two toggles at one place change nothing."""
    fresh = values[1:] != values[:-1]
    if fresh.all():
        return values
    start = np.concatenate(([0], np.flatnonzero(fresh) + 1))
    count = np.diff(start, append=len(values))
    return np.asarray(values[start[count % 2 == 1]], np.int64)
