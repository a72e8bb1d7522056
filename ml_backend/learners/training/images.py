"""Decoded pictures at the size a network sees, kept in memory up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from ml_backend.caches import ByteCache
from ml_backend.images.decode import read_image
from ml_backend.learners.pixels import resized

__all__ = ["Picture", "Pictures", "Within", "image_cache_bytes"]

_MEMORY_SHARE, _MOST_BYTES = 0.25, 8 * 1024**3

Resize = Callable[[tuple[int, int]], tuple[int, int]]
"""(height, width) of a file to the (height, width) wanted."""


def image_cache_bytes(workers: int) -> int:
    """Bytes of decoded pictures that each process of a training may keep.

    All processes together keep at most a quarter of the memory that is free now, and at most 8 GiB.
    ``workers`` is the number of processes that prepare samples; 0 means that the training prepares its own.
    """
    free = int(psutil.virtual_memory().available * _MEMORY_SHARE)
    return min(free, _MOST_BYTES) // max(1, workers)


@dataclass(frozen=True, slots=True)
class Picture:
    """``pixels``: (h, w, 3) uint8 RGB after resizing; ``hw``: height and width of the file."""

    pixels: npt.NDArray[np.uint8]
    hw: tuple[int, int]


class Pictures:
    """Pictures by index, decoded and resized once as long as ``cache_bytes`` suffice.

    May travel to worker processes; each then keeps its own.
    """

    def __init__(self, paths: Sequence[Path], resize: Resize | None = None, *, cache_bytes: int) -> None:
        self.paths = paths
        self._resize = resize
        self._cache_bytes = cache_bytes
        self._kept: ByteCache[int, Picture] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        """Raises BadImage when the file cannot be read."""
        if self._kept is None:  # not when built: a lock cannot travel to the processes that draw
            self._kept = ByteCache(self._cache_bytes, lambda picture: picture.pixels.nbytes)
        found = self._kept.get(index)
        if found is not None:
            return found
        pixels = read_image(self.paths[index])
        hw = (pixels.shape[0], pixels.shape[1])
        picture = Picture(resized(pixels, self._resize(hw)) if self._resize else pixels, hw)
        # A full cache drops nothing. Each picture is used once per pass, so the one used longest ago would be
        # needed again first.
        if self._kept.nbytes + picture.pixels.nbytes <= self._cache_bytes:
            self._kept.put(index, picture)
        return picture


@dataclass(frozen=True, slots=True)
class Within:
    """Resize so that the longest side is at most ``side``; smaller pictures stay as they are."""

    side: int

    def __call__(self, hw: tuple[int, int]) -> tuple[int, int]:
        factor = min(1.0, self.side / max(hw))
        return max(1, round(hw[0] * factor)), max(1, round(hw[1] * factor))
