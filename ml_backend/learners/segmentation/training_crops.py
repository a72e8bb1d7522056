"""Training samples: random crops of the scaled pictures with target and weight of every pixel and label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Rle
from ml_backend.learners.pixels import mean_std_of, net_size, resized
from ml_backend.learners.training.crops import RandomCrops, about, mirrored, turn_angle, warped
from ml_backend.masks.rle import decode_rle, rle_hw

__all__ = [
    "Batch",
    "CropSettings",
    "Crops",
    "Sample",
    "fit_scale",
    "label_shares",
    "masks_of",
    "stack",
    "targets_of",
    "union_mask",
    "valid_pixels",
]

Bitmap = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How crops are drawn. ``side`` in network pixels, ``scale`` in network pixels per image pixel.

    ``turn`` is ``none`` (photographs: up and down differ), ``quarter`` or ``any`` (microscopes, trays seen
    from above). Crops are always mirrored left to right.
    """

    side: int
    scale: float
    max_side: int
    normalise: str
    turn: str
    zoom: float


Sample = tuple[Tensor, Tensor, Tensor]
"""Of a crop: pixels (3, s, s) float32 normalised; target (0, 1), weight (0..255), (labels, s, s) uint8."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``pixels`` (b, 3, s, s) float32 normalised; ``target`` and ``weight`` (b, labels, s, s) float32."""

    pixels: Tensor
    target: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """One picture at network scale: pixels, and by label its target (0..255) and weight (0..255)."""

    pixels: Bitmap
    mean_std: tuple[float, float]
    valid: Bitmap
    target: dict[int, Bitmap]
    weight: dict[int, Bitmap]

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        maps = [*self.target.values(), *self.weight.values()]
        return self.pixels.nbytes + self.valid.nbytes + sum(part.nbytes for part in maps)


class Crops(RandomCrops[CropSettings, _Loaded, Sample]):
    """See ``RandomCrops``."""

    def __init__(
        self,
        examples: Sequence[Example],
        labels: int,
        settings: CropSettings,
        seed: int,
        length: int,
        cache_bytes: int = 1024**3,
    ) -> None:
        super().__init__(examples, settings, seed, length, cache_bytes)
        self.labels = labels

    def _read(self, example: Example) -> _Loaded:
        return _scaled(example, self.settings)

    def _crop(self, loaded: _Loaded, rng: np.random.Generator) -> Sample:
        side = self.settings.side
        move = self._placement(loaded, rng)  # (2, 3): scaled image pixels -> crop pixels
        scaled = self._pixels(loaded, move, rng)
        target = np.zeros((self.labels, side, side), np.uint8)
        weight = np.repeat(warped(loaded.valid, move, side)[None], self.labels, axis=0)
        for label, bitmap in loaded.target.items():
            target[label] = warped(bitmap, move, side) > 127
        for label, bitmap in loaded.weight.items():
            weight[label] = warped(bitmap, move, side)
        return scaled, torch.from_numpy(target), torch.from_numpy(weight)

    def _placement(self, loaded: _Loaded, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Zoom, turn and mirror about a centre that lies on a labelled pixel every second time."""
        side = self.settings.side
        height, width = loaded.pixels.shape[:2]
        zoom = float(np.exp(rng.uniform(-1, 1) * np.log(self.settings.zoom)))
        angle = turn_angle(self.settings.turn, rng)
        linear = mirrored(np.cos(angle) * zoom, np.sin(angle) * zoom, rng)
        centre = rng.uniform(0, 1, 2) * (width, height)
        if loaded.target and rng.random() < 0.5:
            chosen = list(loaded.target.values())[rng.integers(len(loaded.target))]
            there = np.flatnonzero(chosen > 127)  # a label is as likely as any other, however small it is
            if len(there):
                y, x = divmod(int(there[rng.integers(len(there))]), width)
                centre = np.array([x, y]) + rng.uniform(-0.4, 0.4, 2) * side
        return about(linear, centre, zoom, side, (height, width))


def stack(samples: Sequence[Sample]) -> Batch:
    """Crops as one batch."""
    pixels, target, weight = (torch.stack(column) for column in zip(*samples, strict=True))
    return Batch(pixels, target.float(), weight.float() / 255)


def masks_of(example: Example, label: int) -> list[Rle]:
    """The masks of one label."""
    return [rle for rle, k in zip(example.rle, example.label, strict=True) if k == label]


def union_mask(rles: Sequence[Rle], hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(H, W) bool: what any of the masks covers."""
    union = np.zeros(hw, np.bool_)
    for rle in rles:
        union |= decode_rle(rle)
    return union


def valid_pixels(example: Example, hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(H, W) bool: the pixels outside ``ignore``."""
    return ~union_mask(example.ignore, hw)


def targets_of(
    example: Example, hw: tuple[int, int]
) -> tuple[dict[int, npt.NDArray[np.bool_]], npt.NDArray[np.bool_], dict[int, npt.NDArray[np.float32]]]:
    """What a picture teaches, at its full size: by label the union of its masks; which pixels count at all
    (those outside ``ignore``); and by label the weight of each pixel, where it is not that.

    A pixel of a mask counts with the weight of its instance (the largest where masks overlap), also inside an
    ignored area.
    """
    union: dict[int, npt.NDArray[np.bool_]] = {}
    trust: dict[int, npt.NDArray[np.float32]] = {}
    weights = example.weight or (1.0,) * len(example.rle)
    valid = valid_pixels(example, hw)
    for label, rle, weight in zip(example.label, example.rle, weights, strict=True):
        mask = decode_rle(rle)
        if label not in union:
            union[label], trust[label] = np.zeros(hw, np.bool_), np.zeros(hw, np.float32)
        union[label] |= mask
        np.maximum(trust[label], np.float32(weight) * mask, out=trust[label])
    plain = all(weight == 1 for weight in weights) and not example.ignore
    counts = {} if plain else {k: np.where(union[k], trust[k], valid).astype(np.float32) for k in union}
    return union, valid, counts


def _scaled(example: Example, settings: CropSettings) -> _Loaded:
    pixels = read_image(example.image)
    height, width = pixels.shape[:2]
    net_hw = net_size(height, width, settings.scale, settings.max_side)
    union, valid, counts = targets_of(example, (height, width))
    return _Loaded(
        resized(pixels, net_hw),
        mean_std_of(pixels),
        resized(valid.astype(np.uint8) * 255, net_hw),
        {label: resized(mask.astype(np.uint8) * 255, net_hw) for label, mask in union.items()},
        {label: resized(np.rint(part * 255).astype(np.uint8), net_hw) for label, part in counts.items()},
    )


def label_shares(examples: Sequence[Example], labels: int) -> npt.NDArray[np.float64]:
    """(labels,) share of all pixels that belongs to each label."""
    inside, pixels = np.zeros(labels), 0
    for example in examples:
        for label in set(example.label):
            masks = masks_of(example, label)
            inside[label] += union_mask(masks, rle_hw(masks[0])).sum()
        pixels += _pixels(example)
    return np.asarray(inside / max(1, pixels), np.float64)


def fit_scale(
    parts_px: Sequence[int],
    image_hw: Sequence[tuple[int, int]],
    *,
    target_px: float,
    max_side: int,
    min_side: int = 256,
) -> float:
    """Network pixels per image pixel: the median connected part (``parts_px``: areas) gets ``target_px``.

    The short side of the median picture is at least ``min_side`` and its long side at most ``max_side``; no
    picture is enlarged more than 2 times.
    """
    hw = np.median(np.asarray(image_hw or [(320, 320)], np.float64), axis=0)
    middle = float(np.sqrt(np.median(parts_px))) if len(parts_px) else target_px
    scale = max(target_px / max(middle, 1.0), min_side / hw.min())
    return round(float(min(scale, 2.0, max_side / hw.max())), 4)


def _pixels(example: Example) -> int:
    height, width = rle_hw(example.rle[0]) if example.rle else read_image(example.image).shape[:2]
    return height * width
