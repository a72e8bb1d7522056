"""What every detector gives before it is fitted into a project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.instances import Rle
from ml_backend.learners.embedding import EMBEDDING_DIM, projection_matrix

__all__ = ["UNKNOWN_IOU", "Hits", "Projection", "Source", "array"]

UNKNOWN_IOU = 0.75
"""Predicted IoU where a detector says nothing about it."""


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Detections on one picture.

    Attributes
    ----------
    box : (n, 4) float32 xyxy, pixels of the picture
    kind : (n,) int64, index into ``Source.classes``
    score : (n,) float32 in 0..1
    embedding : (n, d) float32
    quality : (n,) float32, predicted IoU, or None where the detector gives none
    rle : n masks, or None where the detector gives boxes only
    """

    box: npt.NDArray[np.float32]
    kind: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32] | None = None
    rle: Sequence[Rle] | None = None


class Source(Protocol):
    """A detector that was trained elsewhere."""

    classes: tuple[str, ...]
    """Its own classes; the labels of the project where it looks for words."""
    words: bool
    """Whether it looks for words: then ``classes`` are the project's labels and there is nothing to map."""
    gives_masks: bool
    """Whether ``Hits.rle`` are masks of objects, not None or filled boxes."""
    said: str
    """A sentence about what it is."""
    embedding_dim: int
    nbytes: int

    def find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Hits]:
        """Detections on each (H, W, 3) uint8 RGB image."""
        ...

    def move(self, device: torch.device) -> None:
        """Bring the weights to a device."""
        ...


class Projection:
    """Features of any width to embeddings of ``EMBEDDING_DIM``; one matrix per width."""

    def __init__(self) -> None:
        self._matrices: dict[int, Tensor] = {}

    def __call__(self, features: Tensor) -> npt.NDArray[np.float32]:
        """(n, EMBEDDING_DIM) of (n, f)."""
        width = int(features.shape[1])
        matrix = self._matrices.get(width)
        if matrix is None or matrix.device != features.device:
            matrix = self._matrices[width] = projection_matrix(width).to(features.device)
        found = array(features.float() @ matrix)
        return found.reshape(-1, EMBEDDING_DIM)


def array(tensor: Tensor) -> npt.NDArray[np.float32]:
    """The tensor as a float32 array in memory of the CPU."""
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
