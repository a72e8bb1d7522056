"""Training samples of box learners: random crops of the scaled images with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Rle
from ml_backend.learners.pixels import mean_std_of, resized
from ml_backend.learners.training.crops import RandomCrops, about, mirrored

__all__ = ["BoxCrops", "CropSettings", "Sample"]

Sample = tuple[Tensor, dict[str, Tensor]]
"""Pixels (3, side, side), and ``boxes`` (n, 4) float xyxy, ``labels`` (n,) from 1, ``weights`` (n,),
``ignore`` (m, 4): areas that are neither object nor background."""

_VISIBLE = 0.35
"""A box of which the crop shows less than this is neither object nor background: what is left of it may look
like nothing."""
_LEAST_PX = 3.0


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How crops are drawn. ``side`` and ``scale`` in network pixels; no picture is scaled to more than
    ``max_side``, as in the network. ``turn``: by quarter turns, so that boxes stay upright."""

    side: int
    scale: float
    max_side: int
    normalise: str
    turn: bool
    jitter: float = 0.25


@dataclass(slots=True)
class _Loaded:
    """One image at network scale; boxes in its pixels, the ignored ones at the end (label 0)."""

    pixels: npt.NDArray[np.uint8]
    mean_std: tuple[float, float]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes + self.boxes.nbytes + self.labels.nbytes + self.weights.nbytes


class BoxCrops(RandomCrops[CropSettings, _Loaded, Sample]):
    """See ``RandomCrops``."""

    def _read(self, example: Example) -> _Loaded:
        pixels = read_image(example.image)
        height, width = pixels.shape[:2]
        scale = min(self.settings.scale, self.settings.max_side / max(height, width))
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        boxes = np.concatenate([_boxes(example.rle), _boxes(example.ignore)])
        boxes *= np.array([size_wh[0] / width, size_wh[1] / height] * 2, np.float32)
        labels = np.array([label + 1 for label in example.label] + [0] * len(example.ignore), np.int64)
        given = example.weight or (1.0,) * len(example.rle)
        weights = np.array([*given, *(0.0,) * len(example.ignore)], np.float32)
        real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return _Loaded(
            resized(pixels, (size_wh[1], size_wh[0])),
            mean_std_of(pixels),
            boxes[real],
            labels[real],
            weights[real],
        )

    def _crop(self, loaded: _Loaded, rng: np.random.Generator) -> Sample:
        move = self._placement(loaded, rng)
        scaled = self._pixels(loaded, move, rng)
        return scaled, self._target(loaded, move)

    def _target(self, loaded: _Loaded, move: npt.NDArray[np.float64]) -> dict[str, Tensor]:
        corners = loaded.boxes.reshape(-1, 2, 2) @ move[:, :2].T + move[:, 2]
        whole = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        seen = whole.clip(0, self.settings.side)
        sides, all_sides = seen[:, 2:] - seen[:, :2], whole[:, 2:] - whole[:, :2]
        there = (sides > 0).all(axis=1)
        share = sides.prod(axis=1) / all_sides.prod(axis=1)
        shown = there & (share >= _VISIBLE) & (sides >= _LEAST_PX).all(axis=1) & (loaded.weights > 0)
        boxes = torch.from_numpy(seen.astype(np.float32))
        return {
            "boxes": boxes[torch.from_numpy(shown)],
            "labels": torch.from_numpy(loaded.labels[shown]),
            "weights": torch.from_numpy(loaded.weights[shown]),
            "ignore": boxes[torch.from_numpy(there & ~shown)],
        }

    def _placement(self, loaded: _Loaded, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """(2, 3) matrix, scaled image pixels -> crop pixels: size jitter, quarter turns and mirror about a
        centre that lies near an object three times in four."""
        side = self.settings.side
        height, width = loaded.pixels.shape[:2]
        zoom = float(np.exp(rng.uniform(-1, 1) * np.log1p(self.settings.jitter)))
        quarter = int(rng.integers(4)) if self.settings.turn else 0
        cos, sin = np.array([1, 0, -1, 0])[quarter] * zoom, np.array([0, 1, 0, -1])[quarter] * zoom
        linear = mirrored(cos, sin, rng)
        if len(loaded.boxes) and rng.random() < 0.75:
            x0, y0, x1, y1 = loaded.boxes[rng.integers(len(loaded.boxes))]
            centre = np.array([x0 + x1, y0 + y1]) / 2 + rng.uniform(-0.4, 0.4, 2) * side
        else:
            centre = rng.uniform(0, 1, 2) * (width, height)
        return about(linear, centre, zoom, side, (height, width))


def _boxes(rles: Sequence[Rle]) -> npt.NDArray[np.float32]:
    """(n, 4) float32 xyxy in image pixels."""
    xywh = np.asarray(coco_mask.toBbox([dict(rle) for rle in rles]), np.float32).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
