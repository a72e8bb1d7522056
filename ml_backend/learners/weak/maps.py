"""How much the proposals of a picture overlap: IoU and cover of all pairs, from bits.

Masks are reduced to a square grid and packed, 64 cells a word; an intersection is a count of common bits
(algorithm: CIM, Li et al., IJCAI 2023, with the maps of its section "cover" made for all pairs at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.learners.weak.candidates import Crop

__all__ = ["FINE", "GRID", "common_cells", "grid_side", "overlap_maps", "pack", "unpack"]

GRID: Final = 128
FINE: Final = 256
_FEW_CELLS = 24
_BLOCK = 64

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]


def grid_side(crops: Sequence[Crop], hw: tuple[int, int]) -> int:
    """Side of the grid: 128, or 256 where the median mask would have too few cells for an IoU."""
    if not crops:
        return GRID
    areas = np.array([crop.inside.sum() for crop in crops]) / (hw[0] * hw[1])
    return GRID if float(np.median(areas)) * GRID * GRID >= _FEW_CELLS else FINE


def pack(crops: Sequence[Crop], hw: tuple[int, int], side: int) -> Words:
    """(n, side² / 64) uint64: the masks on a side × side grid; each has at least one cell."""
    bits = np.zeros((len(crops), side, side), np.bool_)
    scale = np.array([side / hw[1], side / hw[0]])
    for cells, crop in zip(bits, crops, strict=True):
        h, w = crop.inside.shape
        low = np.floor(np.array([crop.x, crop.y]) * scale).astype(int)
        high = np.maximum(np.ceil(np.array([crop.x + w, crop.y + h]) * scale).astype(int), low + 1)
        high = np.minimum(high, side)
        low = np.minimum(low, high - 1)
        # cell centres of the grid, in pixels of the crop
        move = np.array(
            [
                [1 / scale[0], 0, (low[0] + 0.5) / scale[0] - crop.x - 0.5],
                [0, 1 / scale[1], (low[1] + 0.5) / scale[1] - crop.y - 0.5],
            ]
        )
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        grey = cv2.warpAffine(
            crop.inside.astype(np.float32), move, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        inside = np.asarray(grey >= 0.5)
        if not inside.any():
            inside = np.asarray(grey >= grey.max())
        cells[low[1] : high[1], low[0] : high[0]] = inside
    packed = np.packbits(bits.reshape(len(crops), side * side), axis=1)
    return packed.view(np.uint64)


def unpack(words: Words) -> npt.NDArray[np.bool_]:
    """(n, side, side) bool of packed masks."""
    side = round((words.shape[1] * 64) ** 0.5)
    return np.unpackbits(words.view(np.uint8), axis=1).reshape(len(words), side, side).astype(np.bool_)


def common_cells(first: Words, second: Words) -> npt.NDArray[np.int32]:
    """(n, m) int32: cells that masks of ``first`` (n, words) and ``second`` (m, words) share."""
    shared = np.zeros((len(first), len(second)), np.int32)
    for start in range(0, len(first), _BLOCK):
        both = first[start : start + _BLOCK, None, :] & second[None, :, :]
        shared[start : start + _BLOCK] = np.bitwise_count(both).sum(axis=2, dtype=np.int32)
    return shared


def overlap_maps(first: Words, second: Words | None = None) -> tuple[Floats, Floats]:
    """IoU (n, m) and cover (n, m) float32 of packed masks; cover[i, j] = |i ∩ j| / |j|.

    Without ``second``: of all pairs of ``first``.
    """
    second = first if second is None else second
    shared = common_cells(first, second).astype(np.float32)
    area = np.bitwise_count(first).sum(axis=1, dtype=np.int64).astype(np.float32)
    other = np.bitwise_count(second).sum(axis=1, dtype=np.int64).astype(np.float32)
    union = area[:, None] + other[None, :] - shared
    return shared / np.maximum(union, 1), shared / np.maximum(other[None, :], 1)
