"""Training samples of box learners: random crops of the scaled images with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms import v2

from ml_backend.caches import ByteCache
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Rle
from ml_backend.learners.pixels import mean_std_of, normalise, resized

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


@dataclass(slots=True)
class BoxCrops:
    """Draws crops by index, like a torch Dataset. The same index and seed give the same crop.

    Decoded pictures are kept up to ``cache_bytes`` in each process that draws.
    """

    examples: Sequence[Example]
    settings: CropSettings
    seed: int
    length: int
    cache_bytes: int = 1024**3
    _kept: ByteCache[int, _Loaded] | None = None
    _colour: v2.Transform | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        # every image once per pass, in a new order each pass
        turn, place = divmod(index, len(self.examples))
        order = np.random.default_rng((self.seed, 1 << 30, turn)).permutation(len(self.examples))
        return self._crop(self._load(int(order[place])), rng)

    def _load(self, index: int) -> _Loaded:
        if self._kept is None:  # not when built: a lock cannot travel to the processes that draw
            self._kept = ByteCache(self.cache_bytes, lambda loaded: loaded.nbytes)
        found = self._kept.get(index)
        if found is not None:
            return found
        example = self.examples[index]
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
        loaded = _Loaded(
            resized(pixels, (size_wh[1], size_wh[0])),
            mean_std_of(pixels),
            boxes[real],
            labels[real],
            weights[real],
        )
        # A full cache drops nothing. Each picture is used once per pass, so the one used longest ago would be
        # needed again first.
        if self._kept.nbytes + loaded.nbytes <= self.cache_bytes:
            self._kept.put(index, loaded)
        return loaded

    def _crop(self, loaded: _Loaded, rng: np.random.Generator) -> Sample:
        side = self.settings.side
        move = self._placement(loaded, rng)
        # outside the image is its mean grey, which is normalised to 0, like the network's own padding
        grey = (loaded.mean_std[0] * 255,) * 3
        pixels = cv2.warpAffine(
            loaded.pixels,
            move,
            (side, side),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=grey,
        )
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self._colour is None:
            self._colour = v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.03)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 31)))
            image = self._colour(image)
        scaled = normalise(image.float() / 255, self.settings.normalise, loaded.mean_std)
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
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
        if len(loaded.boxes) and rng.random() < 0.75:
            x0, y0, x1, y1 = loaded.boxes[rng.integers(len(loaded.boxes))]
            centre = np.array([x0 + x1, y0 + y1]) / 2 + rng.uniform(-0.4, 0.4, 2) * side
        else:
            centre = rng.uniform(0, 1, 2) * (width, height)
        half = side / 2 / zoom
        # keep the crop on the image where the image is larger than it
        for axis, extent in enumerate((width, height)):
            low, high = min(half, extent / 2), max(extent - half, extent / 2)
            centre[axis] = np.clip(centre[axis], low, high)
        shift = np.array([side / 2, side / 2]) - linear @ centre
        return np.concatenate([linear, shift[:, None]], axis=1)


def _boxes(rles: Sequence[Rle]) -> npt.NDArray[np.float32]:
    """(n, 4) float32 xyxy in image pixels."""
    xywh = np.asarray(coco_mask.toBbox([dict(rle) for rle in rles]), np.float32).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
