"""How good a mask probably is that was made without a trained model: its expected IoU with what was meant.

A few things that can be seen at the edge of a mask say something about it: does the colour change there, is
the picture's strongest change there, is the mask of one colour. A logistic regression of the true IoU on
these (with fractional outcomes: Papke and Wooldridge 1996) makes a number of them. It was fitted on clicks of
simulated users; ``bench/click_confidence.py`` prints the weights, and how well they are calibrated on
pictures that were held back. docs/clicks.md has the table.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["FEATURES", "expected_iou", "mask_features"]

Mask = npt.NDArray[np.bool_]

FEATURES: Final = (
    "colour step",
    "weakest colour step",
    "edge share",
    "unlike ground",
    "one colour",
    "roundness",
    "size",
    "at border",
    "clicks",
    "unchanged",
)
"""Names of the columns of ``mask_features``."""
_SIDE: Final = 160
"""The mask and what is around it are looked at with this many pixels at most."""
_BAND: Final = 3
"""Width in pixels, at that size, of the bands inside and outside of the edge that are compared."""
_WEIGHTS: Final = (0.2861, 0.1049, 1.1207, 0.836, -0.3308, 0.5388, -0.0984, -0.0041, 0.2698, 1.2628)
_BIAS: Final = -2.552
"""As ``python -m bench.click_confidence DATA --limit 20`` prints them."""


def expected_iou(
    pixels: npt.NDArray[np.uint8], mask: Mask, *, clicks: int, before: Mask | None = None
) -> float:
    """Expected IoU, 0..1, of an (H, W) mask on an (H, W, 3) uint8 RGB picture after so many clicks.

    ``before`` is the mask before the last click. An empty mask gives 0.
    """
    if not mask.any():
        return 0.0
    features = mask_features(pixels, mask, clicks=clicks, before=before)
    return float(1.0 / (1.0 + np.exp(-(float(features @ np.asarray(_WEIGHTS)) + _BIAS))))


def mask_features(
    pixels: npt.NDArray[np.uint8], mask: Mask, *, clicks: int, before: Mask | None = None
) -> npt.NDArray[np.float64]:
    """What can be seen of a mask that is not empty, one number for each of ``FEATURES``."""
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    margin = max(4, (y1 - y0) // 4, (x1 - x0) // 4)
    window = (
        slice(max(0, y0 - margin), min(height, y1 + margin)),
        slice(max(0, x0 - margin), min(width, x1 + margin)),
    )
    part, crop = mask[window].astype(np.uint8), np.ascontiguousarray(pixels[window])
    touching = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    scale = min(1.0, _SIDE / max(part.shape))
    if scale < 1.0:
        size = (max(4, round(part.shape[1] * scale)), max(4, round(part.shape[0] * scale)))
        shrunk = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        nearest = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST)
        part = np.asarray(shrunk if shrunk.any() else nearest, np.uint8)
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    lab = cv2.GaussianBlur(cv2.cvtColor(crop, cv2.COLOR_RGB2LAB), (0, 0), 0.7).astype(np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    inside = part.view(np.bool_)
    edge = inside & ~cv2.erode(part, cross, borderType=cv2.BORDER_REPLICATE).view(np.bool_)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _BAND + 1, 2 * _BAND + 1))
    around = cv2.dilate(part, wide).view(np.bool_) & ~inside
    steps = _steps(lab, inside, edge)
    slope = np.sqrt(
        sum(
            cv2.Sobel(lab, cv2.CV_32F, dx, dy, ksize=3).astype(np.float64) ** 2 for dx, dy in ((1, 0), (0, 1))
        ).sum(-1)
    )
    area, length = float(inside.sum()), float(max(edge.sum(), 1))
    colour = lab[inside]
    ground = lab[around] if around.any() else colour
    spread = colour.std(0) + ground.std(0) + 4.0
    old = 0.0
    covered = int(np.count_nonzero(mask))
    if before is not None and before.any():
        both = int(np.count_nonzero(mask & before))
        old = both / (covered + int(np.count_nonzero(before)) - both)
    return np.array(
        [
            np.log1p(steps.mean()),
            np.log1p(np.percentile(steps, 20)),
            np.log((slope[edge].mean() + 1.0) / (slope.mean() + 1.0)) if edge.any() else 0.0,
            np.log1p(float((np.abs(colour.mean(0) - ground.mean(0)) / spread).sum())),
            np.log1p(float(colour.std(0).sum())),
            np.log(4.0 * np.pi * area / length**2),
            np.log(covered / mask.size),
            min(1.0, 8.0 * np.count_nonzero(touching) / touching.size),
            np.log1p(clicks),
            old,
        ],
        np.float64,
    )


def _steps(lab: npt.NDArray[np.float32], inside: Mask, edge: Mask) -> npt.NDArray[np.float64]:
    """How far colour differs between the two sides of the edge, at each of its pixels; units of 8-bit Lab."""
    weight = inside.astype(np.float32)
    side = 2 * _BAND + 1
    share = cv2.blur(weight, (side, side))
    mean_in = cv2.blur(lab * weight[..., None], (side, side)) / np.maximum(share, 1e-3)[..., None]
    mean_out = cv2.blur(lab * (1 - weight)[..., None], (side, side)) / np.maximum(1 - share, 1e-3)[..., None]
    known = edge & (share < 0.999)
    if not known.any():
        return np.zeros(1)
    return np.asarray(np.sqrt(((mean_in[known] - mean_out[known]) ** 2).sum(-1)), np.float64)
