"""Decoded pictures at the size a network sees, kept in memory up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from ml_backend.images.decode import read_image
from ml_backend.learners.training.kept import Kept

__all__ = ["Picture", "Pictures", "image_cache_bytes"]

_MEMORY_SHARE, _MOST_BYTES = 0.25, 8 * 1024**3

Resize = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]


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

    @property
    def nbytes(self) -> int:
        """Memory of the pixels."""
        return self.pixels.nbytes


class Pictures:
    """Pictures by index, decoded and resized once as long as ``cache_bytes`` suffice.

    May travel to worker processes; each then keeps its own.
    """

    def __init__(self, paths: Sequence[Path], resize: Resize | None = None, *, cache_bytes: int) -> None:
        self.paths = paths
        self._resize = resize
        self._kept: Kept[Picture] = Kept(cache_bytes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        """Raises BadImage when the file cannot be read."""
        return self._kept.get(index, self._read)

    def _read(self, index: int) -> Picture:
        pixels = read_image(self.paths[index])
        hw = (pixels.shape[0], pixels.shape[1])
        return Picture(self._resize(pixels) if self._resize else pixels, hw)
