"""What held-out pictures teach: calibrated probabilities, thresholds, and the predicted IoU.

The focal loss pulls probabilities towards one half, and α = 0.25 pulls them down. So a line is fitted to the
logits of each label (Platt 1999), and the threshold of best IoU is looked up on the same pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.segmentation.network import NetworkConfig
from ml_backend.learners.segmentation.predictor import SegmentationPredictor, upscaled
from ml_backend.learners.segmentation.reading import find
from ml_backend.learners.segmentation.training_crops import masks_of, union_mask, valid_pixels
from ml_backend.masks.components import components
from ml_backend.masks.rle import rle_area, rle_iou
from ml_backend.masks.shapes import union_rle

__all__ = ["Seen", "best_threshold", "calibrate", "fit_line", "look"]

Doubles = npt.NDArray[np.float64]

_THRESHOLDS = np.round(np.arange(0.1, 0.91, 0.05), 2)
_PIXELS_PER_PICTURE = 20_000
_MAX_LOGIT = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One held-out picture: its logits (labels, h, w) at the decoder's resolution, and its size.

    What is as large as the picture is made again when it is needed, of one picture at a time: all pictures
    together would take gigabytes.
    """

    logits: Tensor
    example: Example
    hw: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self.logits.nbytes


def look(predictor: SegmentationPredictor, example: Example) -> Seen:
    """A picture as the network sees it. Raises BadImage."""
    image = read_image(example.image)
    return Seen(predictor.coarse_logits(image), example, (image.shape[0], image.shape[1]))


def calibrate(
    predictor: SegmentationPredictor,
    config: NetworkConfig,
    held_out: Sequence[Example],
    *,
    fixed_threshold: float | None,
    seed: int,
) -> NetworkConfig:
    """``config`` with calibration, thresholds and the line of the predicted IoU fitted to ``held_out``.

    A label that no held-out picture shows keeps what it has. The cost is one prediction per picture.
    """
    seen = [look(predictor, example) for example in held_out]
    rng = np.random.default_rng(seed)
    lines, cuts = list(config.calibration), list(config.threshold)
    for label in range(len(config.labels)):
        if not any(rle_area(rle) for one in held_out for rle in masks_of(one, label)):
            continue
        z, t = _pixels(seen, label, rng)
        lines[label] = fit_line(z, t)
        if fixed_threshold is None:
            cuts[label] = best_threshold(_probability(z, lines[label]), t)
    fitted = dataclasses.replace(config, calibration=tuple(lines), threshold=tuple(cuts))
    expected, true = _overlaps(fitted, seen)
    if not len(true):
        return fitted
    clipped = np.clip(expected, 1e-4, 1 - 1e-4)
    return dataclasses.replace(fitted, quality=fit_line(np.log(clipped / (1 - clipped)), true))


def fit_line(z: Doubles, target: Doubles, *, ridge: float = 1.0, steps: int = 50) -> tuple[float, float]:
    """Slope and shift of a logistic line: minimises the cross-entropy of sigmoid(a z + b) with ``target``.

    ``target`` may be any number in 0..1. ``ridge`` holds (a, b) at (1, 0) with the strength of so many
    observations: few observations change little. The slope stays positive, so the order of ``z`` is kept.
    """
    z = np.clip(z, -_MAX_LOGIT, _MAX_LOGIT)
    line = np.array([1.0, 0.0])
    columns = np.stack([z, np.ones_like(z)], axis=1)

    def loss(at: Doubles) -> float:
        s = columns @ at
        fit = np.logaddexp(0, s).sum() - (target * s).sum()
        return float(fit + ridge / 2 * ((at[0] - 1) ** 2 + at[1] ** 2))

    now = loss(line)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-(columns @ line)))
        gradient = columns.T @ (p - target) + ridge * (line - (1.0, 0.0))
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + ridge * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while length > 1e-4 and loss(line - length * step) > now:
            length /= 2
        after = loss(line - length * step)
        if after >= now - 1e-9 * abs(now):
            break
        line, now = line - length * step, after
    return max(float(line[0]), 0.05), float(line[1])


def best_threshold(p: Doubles, target: Doubles) -> float:
    """The threshold with the highest IoU over all pixels; the one nearest to one half among equals."""
    inside = target > 0.5
    scores = [float((inside & (p > cut)).sum() / max(1, (inside | (p > cut)).sum())) for cut in _THRESHOLDS]
    best = max(scores)
    near = [cut for cut, score in zip(_THRESHOLDS, scores, strict=True) if score >= best]
    return float(min(near, key=lambda cut: abs(cut - 0.5)))


def _probability(z: Doubles, line: tuple[float, float]) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-np.clip(line[0] * z + line[1], -_MAX_LOGIT, _MAX_LOGIT))), np.float64)


def _pixels(seen: Sequence[Seen], label: int, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Logits and truth of pixels drawn at random from all pictures."""
    drawn = [_drawn(one, label, rng) for one in seen]
    return np.concatenate([z for z, _ in drawn]), np.concatenate([t for _, t in drawn])


def _drawn(one: Seen, label: int, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    places = np.flatnonzero(valid_pixels(one.example, one.hw))
    if len(places) > _PIXELS_PER_PICTURE:
        places = places[rng.integers(0, len(places), _PIXELS_PER_PICTURE)]
    full = upscaled(one.logits[label : label + 1], one.hw).numpy()
    mask = union_mask(masks_of(one.example, label), one.hw)
    return full.reshape(-1)[places].astype(np.float64), mask.reshape(-1)[places].astype(np.float64)


def _overlaps(config: NetworkConfig, seen: Sequence[Seen]) -> tuple[Doubles, Doubles]:
    """Expected and true IoU of every row that would be found on the held-out pictures."""
    found = [_overlaps_of(config, one) for one in seen]
    expected = [value for values, _ in found for value in values]
    return np.array(expected), np.array([value for _, values in found for value in values])


def _overlaps_of(config: NetworkConfig, one: Seen) -> tuple[list[float], list[float]]:
    maps = np.stack(
        [
            _probability(z.astype(np.float64), line).astype(np.float32)
            for z, line in zip(upscaled(one.logits, one.hw).numpy(), config.calibration, strict=True)
        ]
    )
    rows = find(maps, config.threshold, unit=config.unit, min_area=config.min_area, grid_hw=(1, 1))
    expected: list[float] = []
    true: list[float] = []
    for label in {row.label for row in rows}:
        mine = [row for row in rows if row.label == label]
        drawn = [rle for rle in masks_of(one.example, label) if rle_area(rle)]
        there = [union_rle(drawn)] if drawn else []
        if config.unit == "component" and there:
            there = components(there[0], min_area_px=config.min_area)
        overlap = rle_iou([row.rle for row in mine], there)
        true += overlap.max(axis=1).tolist() if there else [0.0] * len(mine)
        expected += [row.overlap for row in mine]
    return expected, true
