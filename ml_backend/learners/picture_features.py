"""Frozen features of whole pictures, for orders of tasks: no training, known before the first label.

``classical`` needs nothing: colour and brightness on a coarse grid, and how strong edges of each direction
and size are. They tell apart what differs at a glance (stain, magnification, background, crowding), which is
what a spread over pictures needs; they know nothing of objects. Foundation models do: give a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadInput

__all__ = ["ClassicalFeatures", "PictureFeatures", "picture_features"]

_SIDE: Final = 128
_GRID: Final = 4
_DIRECTIONS: Final = 8
_LEVELS: Final = 3


class PictureFeatures(Protocol):
    """What gives a feature vector to each picture."""

    name: str
    """stands for the model and its version: features of different names are not compared"""

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """(n, f) float32 of n (H, W, 3) uint8 RGB images."""
        ...


class ClassicalFeatures:
    """Means and spreads of Lab colour on a 4×4 grid, and histograms of edge directions at three scales."""

    name = "classical-1"
    dim = _GRID * _GRID * 6 + _LEVELS * (_DIRECTIONS + 2)

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        rows = [_describe(image) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)


def picture_features(choice: str) -> PictureFeatures:
    """The features of that name: ``classical``, or a folder with a vision model that transformers loads.

    Raises BadInput when there is no such model.
    """
    if choice in ("", "classical"):
        return ClassicalFeatures()
    raise BadInput(f"there are no features called {choice!r}", field="features", hint="Use classical")


def _describe(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32) / 255.0
    cells = lab.reshape(_GRID, _SIDE // _GRID, _GRID, _SIDE // _GRID, 3)
    parts = [cells.mean(axis=(1, 3)).ravel(), cells.std(axis=(1, 3)).ravel()]
    grey = lab[..., 0]
    for _ in range(_LEVELS):
        dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
        strength, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
        number = np.minimum((angle / np.pi * _DIRECTIONS).astype(np.int64), _DIRECTIONS - 1)
        histogram = np.bincount(number.ravel(), strength.ravel(), minlength=_DIRECTIONS) / strength.size
        parts += [histogram, np.array([strength.mean(), strength.std()])]
        grey = cv2.pyrDown(grey)
    return np.asarray(np.concatenate(parts), np.float32)
