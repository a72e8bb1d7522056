"""Training samples: random crops of the scaled images, with their instances transformed in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from ml_backend.errors import BadImage
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Rle
from ml_backend.learners.pixels import resized
from ml_backend.learners.training.crops import RandomCrops, about, mirrored, turn_angle, warped

__all__ = ["CropSettings", "Crops"]

Sample = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How crops are drawn. ``side`` and ``scale`` in network pixels.

    ``turn`` is ``none`` (photographs: up and down differ), ``quarter`` (boxes instead of masks: a box stays
    a box) or ``any`` (microscopes, trays seen from above). Crops are always mirrored left to right.
    """

    side: int
    scale: float
    normalise: str
    turn: str
    jitter: float = 0.25
    min_area_px: int = 12
    min_visible: float = 0.3


@dataclass(slots=True)
class _Loaded:
    """One image held ready: pixels at network scale, instances as small bitmaps at image scale.

    ``labels`` are -1 for areas to ignore.
    """

    pixels: npt.NDArray[np.uint8]
    mean_std: tuple[float, float]
    factor_xy: tuple[float, float]
    boxes: npt.NDArray[np.int64]
    bitmaps: list[npt.NDArray[np.uint8]]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        bitmaps = sum(bitmap.nbytes for bitmap in self.bitmaps)
        return self.pixels.nbytes + self.boxes.nbytes + self.labels.nbytes + bitmaps


class Crops(RandomCrops[CropSettings, _Loaded, Sample]):
    """See ``RandomCrops``."""

    def _read(self, example: Example) -> _Loaded:
        pixels = read_image(example.image)
        height, width = pixels.shape[:2]
        scale = self.settings.scale
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        # not mean_std_of, whose last digits differ: a training that is repeated gives the same weights
        as_float = pixels.astype(np.float32) / 255
        mean_std = (float(as_float.mean()), float(as_float.std()))
        boxes, bitmaps, labels, weights = [], [], [], []
        for rle, label, weight in _areas(example):
            if list(rle["size"]) != [height, width]:  # type: ignore[call-overload]
                raise BadImage(
                    f"task {example.task_id}: the mask is {rle['size']} (height, width), "
                    f"the image {[height, width]}"
                )
            x, y, w, h = (round(float(v)) for v in coco_mask.toBbox(dict(rle)))
            if w < 1 or h < 1:
                continue
            boxes.append((x, y, w, h))
            bitmaps.append(np.ascontiguousarray(coco_mask.decode(dict(rle))[y : y + h, x : x + w]))
            labels.append(label)
            weights.append(weight)
        return _Loaded(
            resized(pixels, (size_wh[1], size_wh[0])),
            mean_std,
            (size_wh[0] / width, size_wh[1] / height),
            np.asarray(boxes, np.int64).reshape(-1, 4),
            bitmaps,
            np.asarray(labels, np.int64),
            np.asarray(weights, np.float64),
        )

    def _crop(self, loaded: _Loaded, rng: np.random.Generator) -> Sample:
        move = self._placement(loaded, rng)  # (2, 3): scaled image pixels -> crop pixels
        scaled = self._pixels(loaded, move, rng)
        masks, labels = self._instances(loaded, move, rng)
        is_object = labels > 0
        target = {
            "boxes": _boxes_of(masks[is_object]),
            "labels": torch.from_numpy(labels[is_object]),
            "masks": torch.from_numpy(masks[is_object]),
            "ignore": _boxes_of(masks[~is_object]),
        }
        return scaled, target

    def _placement(self, loaded: _Loaded, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Scale jitter, turn and mirror about a centre that lies near an object three times in four."""
        side = self.settings.side
        height, width = loaded.pixels.shape[:2]
        zoom = float(np.exp(rng.uniform(-1, 1) * np.log1p(self.settings.jitter)))
        angle = turn_angle(self.settings.turn, rng)
        linear = mirrored(np.cos(angle) * zoom, np.sin(angle) * zoom, rng)
        if len(loaded.boxes) and rng.random() < 0.75:
            x, y, w, h = loaded.boxes[rng.integers(len(loaded.boxes))]
            centre = np.array([x + w / 2, y + h / 2]) * loaded.factor_xy + rng.uniform(-0.4, 0.4, 2) * side
        else:
            centre = rng.uniform(0, 1, 2) * (width, height)
        return about(linear, centre, zoom, side, (height, width))

    def _instances(
        self, loaded: _Loaded, move: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Masks and labels in the crop; labels are -1 for areas to ignore.

        An instance of weight w is an instance in a share w of the crops and an area to ignore in the others:
        on average its losses weigh w, and it is never background.
        """
        side = self.settings.side
        masks, labels = [], []
        scale = np.diag(loaded.factor_xy)
        linear = move[:, :2] @ scale
        zoom = abs(np.linalg.det(linear))
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        certain = bool((loaded.weights >= 1).all())  # no numbers are drawn then
        counts = loaded.weights >= (0.0 if certain else rng.uniform(0, 1, len(loaded.weights)))
        drawn_labels = np.where(counts, loaded.labels, -1)
        for (x, y, w, h), bitmap, label in zip(loaded.boxes, loaded.bitmaps, drawn_labels, strict=True):
            placed = (corners * (w, h) + (x, y)) @ linear.T + move[:, 2]
            low, high = placed.min(0), placed.max(0)
            if high.min() <= 1 or low.max() >= side - 1:
                continue
            full = np.concatenate([linear, (linear @ (x, y) + move[:, 2])[:, None]], axis=1)
            mask = warped(bitmap * np.uint8(255), full, side) > 127
            area = int(mask.sum())
            if area >= max(self.settings.min_area_px, self.settings.min_visible * bitmap.sum() * zoom):
                masks.append(mask)
                labels.append(int(label))
        stacked = np.stack(masks).astype(np.uint8) if masks else np.zeros((0, side, side), np.uint8)
        return stacked, np.asarray(labels, np.int64)


def _areas(example: Example) -> Iterator[tuple[Rle, int, float]]:
    """Mask, label from 1 and weight of each instance, then the areas to ignore with label -1."""
    weights = example.weight or (1.0,) * len(example.rle)
    for rle, label, weight in zip(example.rle, example.label, weights, strict=True):
        yield rle, label + 1, weight
    for rle in example.ignore:
        yield rle, -1, 1.0


def _boxes_of(masks: npt.NDArray[np.uint8]) -> Tensor:
    """(n, 4) float xyxy of (n, h, w) bitmaps, none empty; right and bottom edges exclusive."""
    columns, rows = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    x0, y0 = columns.argmax(1), rows.argmax(1)
    x1 = columns.shape[1] - columns[:, ::-1].argmax(1)
    y1 = rows.shape[1] - rows[:, ::-1].argmax(1)
    return torch.from_numpy(np.stack([x0, y0, x1, y1], axis=1).astype(np.float32).reshape(-1, 4))
