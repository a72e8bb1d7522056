"""What each proposal looks like, as numbers: its colours, texture and form, and those of its surroundings.

``classical`` numbers need no weights. Where a backbone with published or own weights is at hand, its features
inside the mask and inside the box are added (the frozen-feature variant of CIM: no end-to-end training).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.learners.weak.candidates import Crop
from ml_backend.learners.weak.proposals import Proposals

__all__ = ["classical_features"]

_FORM: Final = 5
_BINS: Final = (8, 6, 6)
_TURNS: Final = 8

Floats = npt.NDArray[np.float32]


def classical_features(found: Proposals) -> Floats:
    """(n, f) float32: cues, colour and texture inside and around, the mask reduced to 5 × 5, the place."""
    maps = found.maps
    light = maps.lab[..., 0]
    dx, dy = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    strength = np.asarray(np.sqrt(dx * dx + dy * dy), np.float32)
    turn = np.asarray((np.arctan2(dy, dx) / np.pi % 1.0) * _TURNS, np.int64) % _TURNS
    bands = _bands(light)
    bins = np.stack(
        [
            np.clip(maps.lab[..., k] * (count / 256.0), 0, count - 1).astype(np.int64)
            for k, count in enumerate(_BINS)
        ],
        axis=-1,
    )
    whole = [*maps.lab.reshape(-1, 3).mean(axis=0) / 255, *maps.lab.reshape(-1, 3).std(axis=0) / 64]
    rows = [_one(crop, found, strength, turn, bands, bins, whole) for crop in found.crops]
    size = 3 * 3 + 3 + sum(_BINS) * 2 + _TURNS + len(bands) * 2 + _FORM**2 + 4 + len(whole)
    described = np.asarray(rows, np.float32).reshape(len(rows), size)
    return np.concatenate([found.cues, described], axis=1)


def _bands(light: Floats) -> list[Floats]:
    """Texture energy at three scales: differences of Gaussians, absolute."""
    blurred = [light] + [np.asarray(cv2.GaussianBlur(light, (0, 0), s), np.float32) for s in (1.5, 3.0, 6.0)]
    return [np.asarray(np.abs(a - b) / 16, np.float32) for a, b in pairwise(blurred)]


def _one(
    crop: Crop,
    found: Proposals,
    strength: Floats,
    turn: npt.NDArray[np.int64],
    bands: list[Floats],
    bins: npt.NDArray[np.int64],
    whole: list[float],
) -> list[float]:
    h, w = crop.inside.shape
    height, width = found.work_hw
    reach = max(3, round(0.25 * (h * w) ** 0.5))
    y0, x0 = max(crop.y - reach, 0), max(crop.x - reach, 0)
    y1, x1 = min(crop.y + h + reach, height), min(crop.x + w + reach, width)
    inside = np.zeros((y1 - y0, x1 - x0), np.bool_)
    inside[crop.y - y0 : crop.y - y0 + h, crop.x - x0 : crop.x - x0 + w] = crop.inside
    outside = ~inside
    if not outside.any():
        outside = inside
    window = np.s_[y0:y1, x0:x1]
    lab = found.maps.lab[window]
    own, other = lab[inside], lab[outside]
    mean, around = own.mean(axis=0) / 255, other.mean(axis=0) / 255
    values = [*mean, *(own.std(axis=0) / 64), *around, *(4 * (mean - around))]
    for region in (inside, outside):
        chosen = bins[window][region]
        for k, count in enumerate(_BINS):
            values += (np.bincount(chosen[:, k], minlength=count) / len(chosen)).tolist()
    energy = strength[window][inside]
    turned = np.bincount(turn[window][inside], energy, _TURNS)
    values += (turned / max(float(turned.sum()), 1e-3)).tolist()
    for band in bands:
        values += [float(band[window][inside].mean()), float(band[window][outside].mean())]
    form = cv2.resize(crop.inside.astype(np.float32), (_FORM, _FORM), interpolation=cv2.INTER_AREA)
    values += np.asarray(form).reshape(-1).tolist()
    values += [
        (crop.x + w / 2) / width,
        (crop.y + h / 2) / height,
        float(np.log(h / w)),
        float(np.log(h * w)),
    ]
    return [float(v) for v in values + whole]
