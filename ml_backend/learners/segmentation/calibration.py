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

from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.segmentation.network import NetworkConfig
from ml_backend.learners.segmentation.predictor import SegmentationPredictor
from ml_backend.learners.segmentation.reading import find
from ml_backend.learners.segmentation.training_crops import targets_of
from ml_backend.masks.components import components
from ml_backend.masks.rle import encode_mask, rle_iou

__all__ = ["best_threshold", "calibrate", "fit_line"]

Doubles = npt.NDArray[np.float64]

_THRESHOLDS = np.round(np.arange(0.1, 0.91, 0.05), 2)
_PIXELS_PER_PICTURE = 20_000
_MAX_LOGIT = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One held-out picture: logits (labels, H, W), its true masks by label, and which pixels count."""

    logits: npt.NDArray[np.float32]
    truth: dict[int, npt.NDArray[np.bool_]]
    valid: npt.NDArray[np.bool_]


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
    seen = []
    for example in held_out:
        image = read_image(example.image)
        truth, valid, _ = targets_of(example, (image.shape[0], image.shape[1]))
        seen.append(_Seen(predictor.logits(image), truth, valid))
    rng = np.random.default_rng(seed)
    lines, cuts = list(config.calibration), list(config.threshold)
    for label in range(len(config.labels)):
        if not any(one.truth[label].any() for one in seen if label in one.truth):
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


def _pixels(seen: Sequence[_Seen], label: int, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Logits and truth of pixels drawn at random from all pictures."""
    logits, truth = [], []
    for one in seen:
        places = np.flatnonzero(one.valid)
        if len(places) > _PIXELS_PER_PICTURE:
            places = places[rng.integers(0, len(places), _PIXELS_PER_PICTURE)]
        mask = one.truth.get(label)
        logits.append(one.logits[label].reshape(-1)[places])
        truth.append(np.zeros(len(places)) if mask is None else mask.reshape(-1)[places])
    return np.concatenate(logits).astype(np.float64), np.concatenate(truth).astype(np.float64)


def _overlaps(config: NetworkConfig, seen: Sequence[_Seen]) -> tuple[Doubles, Doubles]:
    """Expected and true IoU of every row that would be found on the held-out pictures."""
    expected: list[float] = []
    true: list[float] = []
    for one in seen:
        maps = np.stack(
            [
                _probability(z.astype(np.float64), line)
                for z, line in zip(one.logits, config.calibration, strict=True)
            ]
        ).astype(np.float32)
        rows = find(maps, config.threshold, unit=config.unit, min_area=config.min_area, grid_hw=(1, 1))
        drawn = {label: encode_mask(mask) for label, mask in one.truth.items() if mask.any()}
        for label in {row.label for row in rows}:
            mine = [row for row in rows if row.label == label]
            there = [drawn[label]] if label in drawn else []
            if config.unit == "component" and there:
                there = components(there[0], min_area_px=config.min_area)
            overlap = rle_iou([row.rle for row in mine], there)
            true += overlap.max(axis=1).tolist() if there else [0.0] * len(mine)
            expected += [row.overlap for row in mine]
    return np.array(expected), np.array(true)
