"""Training samples: random crops of the scaled images, with their instances transformed in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms import v2

from ml_backend.caches import ByteCache
from ml_backend.errors import BadImage
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Rle
from ml_backend.learners.pixels import normalise, resized

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


@dataclass(slots=True)
class Crops:
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
        loaded = self._load(int(order[place]))
        return self._crop(loaded, rng)

    def _load(self, index: int) -> _Loaded:
        if self._kept is None:  # not when built: a lock cannot travel to the processes that draw
            self._kept = ByteCache(self.cache_bytes, lambda loaded: loaded.nbytes)
        found = self._kept.get(index)
        if found is not None:
            return found
        example = self.examples[index]
        pixels = read_image(example.image)
        height, width = pixels.shape[:2]
        scale = self.settings.scale
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
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
        loaded = _Loaded(
            resized(pixels, (size_wh[1], size_wh[0])),
            mean_std,
            (size_wh[0] / width, size_wh[1] / height),
            np.asarray(boxes, np.int64).reshape(-1, 4),
            bitmaps,
            np.asarray(labels, np.int64),
            np.asarray(weights, np.float64),
        )
        # A full cache drops nothing. Each picture is used once per pass, so the one used longest ago would be
        # needed again first.
        if self._kept.nbytes + loaded.nbytes <= self.cache_bytes:
            self._kept.put(index, loaded)
        return loaded

    def _crop(self, loaded: _Loaded, rng: np.random.Generator) -> Sample:
        side = self.settings.side
        move = self._placement(loaded, rng)  # (2, 3): scaled image pixels -> crop pixels
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
        angle = 0.0 if self.settings.turn == "none" else rng.uniform(0, 2 * np.pi)
        if self.settings.turn != "any" or rng.random() < 0.5:
            angle = round(angle / (np.pi / 2)) * np.pi / 2  # half of the turns keep pixels sharp
        cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
        if len(loaded.boxes) and rng.random() < 0.75:
            x, y, w, h = loaded.boxes[rng.integers(len(loaded.boxes))]
            centre = np.array([x + w / 2, y + h / 2]) * loaded.factor_xy + rng.uniform(-0.4, 0.4, 2) * side
        else:
            centre = rng.uniform(0, 1, 2) * (width, height)
        half = side / 2 / zoom
        # keep the crop on the image where the image is larger than it
        for axis, extent in enumerate((width, height)):
            low, high = min(half, extent / 2), max(extent - half, extent / 2)
            centre[axis] = np.clip(centre[axis], low, high)
        shift = np.array([side / 2, side / 2]) - linear @ centre
        return np.concatenate([linear, shift[:, None]], axis=1)

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
            grey = cv2.warpAffine(bitmap * np.uint8(255), full, (side, side), flags=cv2.INTER_LINEAR)
            mask = np.asarray(grey) > 127
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
