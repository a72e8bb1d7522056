"""Frozen features that need no published weights: filters learnt from the pictures themselves.

Small patches are whitened and clustered (k-means); the centres are filters that respond to the marks, edges
and textures that occur in these pictures (Coates, Lee & Ng, AISTATS 2011). No labels are needed. Responses
are divided by the contrast around, and pooled over the picture by means of rising powers up to the maximum:
a small crack in a large even surface moves no mean, but it moves the highest responses. Three sizes of
picture, local binary patterns (Ojala et al. 2002) and the colours of the picture are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.learners.classes.feature_model import FeatureModel

__all__ = ["PatchFeatures"]

_LEVELS: Final = 3
_FILTERS: Final = 64
_PATCH: Final = 7
_PATCHES: Final = 12_000
_ROUNDS: Final = 10
_SOFT: Final = 0.01
"""Added to the variance of a patch, in a picture of unit variance: even patches are not blown up to noise."""
_WHITEN: Final = 0.1
_GRID: Final = 4
_PATTERNS: Final = 10
_EVEN: Final = 0.01
"""A neighbour is brighter by at least this share of the spread, or rounding decides on even surfaces."""
_AROUND: Final = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))


def _pattern_codes() -> list[float]:
    """For each of the 256 patterns of 8 neighbours: how many are brighter where these lie side by side, else
    9 (uniform patterns, the same however the picture is turned)."""
    codes = []
    for pattern in range(256):
        bits = [(pattern >> i) & 1 for i in range(8)]
        changes = sum(bits[i] != bits[i - 1] for i in range(8))
        codes.append(float(sum(bits) if changes <= 2 else 9))
    return codes


class PatchFeatures(FeatureModel):
    """(n, 3, s, s) pixels in 0..1 to (n, dim) features. ``learn`` sets the filters; they are buffers."""

    side = 256
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.filters: Tensor
        self.codes: Tensor
        self.register_buffer("filters", torch.zeros(_LEVELS * _FILTERS, 1, _PATCH, _PATCH))
        self.register_buffer("codes", torch.tensor(_pattern_codes()))
        self.dim = _LEVELS * (5 * _FILTERS + 1 + _PATTERNS) + 6 + 3 * _GRID * _GRID

    def description(self) -> dict[str, Any]:
        """What ``build_features`` needs."""
        return {"kind": "patches"}

    def learn(self, images: Sequence[npt.NDArray[np.uint8]], *, seed: int) -> None:
        """Set the filters from (s, s, 3) uint8 pictures."""
        rng = np.random.default_rng(seed)
        each = max(1, _PATCHES // len(images))
        for level in range(_LEVELS):
            drawn = [_draw(image, level, each, rng) for image in images]
            self.filters[_of(level), 0] = torch.from_numpy(_learn_filters(np.concatenate(drawn), rng))

    def forward(self, pixels: Tensor) -> Tensor:
        grey = pixels.mean(dim=1, keepdim=True)
        spread = grey.std(dim=(2, 3), keepdim=True).clamp(min=0.02)
        plane = (grey - grey.mean(dim=(2, 3), keepdim=True)) / spread
        parts = [
            pixels.mean(dim=(2, 3)),
            pixels.std(dim=(2, 3)),
            functional.adaptive_avg_pool2d(pixels, _GRID).flatten(1),
        ]
        for level in range(_LEVELS):
            parts.append(self._responses(plane, level))
            parts.append(self._patterns(plane))
            plane = functional.avg_pool2d(plane, 2)
        return torch.cat(parts, dim=1)

    def _responses(self, plane: Tensor, level: int) -> Tensor:
        box = torch.full((1, 1, _PATCH, _PATCH), 1.0 / _PATCH**2, device=plane.device)
        step = 2 if level == 0 else 1
        mean = functional.conv2d(plane, box, stride=step)
        variance = (functional.conv2d(plane * plane, box, stride=step) - mean * mean).clamp(min=0.0)
        # the filters sum to 0, so the mean of the patch needs no subtracting
        contrast = (variance + _SOFT).sqrt()
        found = (functional.conv2d(plane, self.filters[_of(level)], stride=step) / contrast).abs().flatten(2)
        highest = found.amax(dim=2)
        share = found / highest.clamp(min=1e-6)[..., None]
        square = share * share
        fourth = square * square
        tenth = fourth * fourth * square
        means = [
            found.mean(dim=2),
            square.mean(dim=2).sqrt() * highest,
            fourth.mean(dim=2).sqrt().sqrt() * highest,
            tenth.mean(dim=2).clamp(min=1e-12) ** 0.1 * highest,
            highest,
            variance.mean(dim=(2, 3)).sqrt(),
        ]
        return torch.cat(means, dim=1)

    def _patterns(self, plane: Tensor) -> Tensor:
        """(n, 10) root of the share of each pattern."""
        height, width = int(plane.shape[2]), int(plane.shape[3])
        middle = plane[:, :, 1:-1, 1:-1]
        pattern = torch.zeros_like(middle)
        for bit, (y, x) in enumerate(_AROUND):
            brighter = plane[:, :, y : height - 2 + y, x : width - 2 + x] > middle + _EVEN
            pattern = pattern + brighter.to(plane.dtype) * float(1 << bit)
        code = self.codes[pattern.long()]
        shares = [(code == float(i)).to(plane.dtype).mean(dim=(1, 2, 3)) for i in range(_PATTERNS)]
        return torch.stack(shares, dim=1).sqrt()


def _draw(
    image: npt.NDArray[np.uint8], level: int, count: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """(count, 49) patches of one picture at one level, of zero mean and about unit contrast."""
    grey = image.astype(np.float32).mean(axis=2) / 255
    plane = (grey - grey.mean()) / max(float(grey.std()), 0.02)
    side = plane.shape[0] >> level
    plane = cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA)
    views = np.lib.stride_tricks.sliding_window_view(plane, (_PATCH, _PATCH))
    y, x = rng.integers(0, views.shape[0], count), rng.integers(0, views.shape[1], count)
    patches = views[y, x].reshape(count, -1).astype(np.float32)
    patches -= patches.mean(axis=1, keepdims=True)
    return np.asarray(patches / np.sqrt(patches.var(axis=1, keepdims=True) + _SOFT), np.float32)


def _learn_filters(patches: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(64, 7, 7) filters: directions of the k-means centres of whitened patches, applied to plain ones."""
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whiten = (vectors / np.sqrt(np.maximum(values, 0.0) + _WHITEN)) @ vectors.T
    white = patches @ whiten
    centres = _k_means(white, rng)
    centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)
    filters = centres @ whiten
    filters -= filters.mean(axis=1, keepdims=True)
    return np.asarray(filters.reshape(_FILTERS, _PATCH, _PATCH), np.float32)


def _k_means(points: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(64, d) centres. The start is drawn by squared distance (k-means++), which finds rare marks too: random
    ones cost a tenth of the AUC on surfaces with small defects."""
    lengths = (points**2).sum(axis=1)
    centres = points[rng.integers(len(points), size=1)]
    nearest = np.full(len(points), np.inf)
    while len(centres) < _FILTERS:
        last = centres[-1]
        nearest = np.minimum(nearest, np.maximum(lengths - 2 * points @ last + last @ last, 0.0))
        total = float(nearest.sum())
        drawn = rng.choice(len(points), p=nearest / total) if total > 0 else rng.integers(len(points))
        centres = np.concatenate([centres, points[drawn][None]])
    for _ in range(_ROUNDS):
        group = ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
        counts = np.bincount(group, minlength=_FILTERS)
        sums = np.zeros_like(centres)
        np.add.at(sums, group, points)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return np.asarray(centres, np.float32)


def _of(level: int) -> slice:
    """The filters of a level."""
    return slice(level * _FILTERS, (level + 1) * _FILTERS)
