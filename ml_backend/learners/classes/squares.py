"""Pictures as squares of pixels: what the classifier sees, in training, in use and after an export.

Pillow scales them, also in the script that goes with an export: equal pixels give equal answers everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ml_backend.learners.training.images import Pictures

__all__ = ["Squares", "as_batch", "square"]

Pixels = npt.NDArray[np.uint8]


def square(image: Pixels, side: int) -> Pixels:
    """(side, side, 3) uint8 of an (H, W, 3) RGB picture; its shape is not kept."""
    scaled = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(scaled, np.uint8)


def as_batch(squares: Sequence[Pixels], device: torch.device) -> Tensor:
    """(n, 3, side, side) float32 in 0..255, channels last (1.6 times as fast on CPUs)."""
    stacked = torch.from_numpy(np.stack(squares)).to(device)
    return stacked.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)


class Squares:
    """Squares of picture files by index, decoded once as long as ``cache_bytes`` suffice."""

    def __init__(self, paths: Sequence[Path], side: int, *, cache_bytes: int) -> None:
        self.side = side
        self._pictures = Pictures(paths, partial(square, side=side), cache_bytes=cache_bytes)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Pixels:
        """Raises BadImage when the file cannot be read."""
        return self._pictures[index].pixels

    def batches(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """All pictures in order, as batches."""
        for first in range(0, len(self), size):
            last = min(first + size, len(self))
            yield as_batch([self[i] for i in range(first, last)], device)
