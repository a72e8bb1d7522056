"""What can be said of a candidate before anybody saw it: the columns that the ranking is computed from.

All candidates of a click are looked at together in one small frame around them, so that the cost does not
grow with the picture. Permuting the candidates permutes the rows and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import Prompt
from ml_backend.clicks.ranking.candidates import SOURCES, Candidate
from ml_backend.clicks.start_masks import box_iou

__all__ = ["FEATURES", "UsualSize", "features_of"]

FEATURES: Final = (
    *(f"from {name}" for name in SOURCES),
    *(f"score of {name}" for name in SOURCES),
    "usual",
    "size",
    "size squared",
    "agreement",
    "nearest",
    "nearest of another source",
    *(f"nearest, {name}" for name in SOURCES),
    "click depth",
    "box fit",
    "solidity",
    "pieces",
    "edge step",
    "one colour",
    "at border",
)
"""Names of the columns of ``features_of``."""
_SIDE: Final = 112
_LOGIT: Final = 4.0
_WIDEST: Final = 4.0


@dataclass(frozen=True, slots=True)
class UsualSize:
    """Mean and spread of the logarithm of the area in pixels, of the accepted objects of one label."""

    mean: float
    spread: float


def features_of(
    candidates: Sequence[Candidate], prompt: Prompt, pixels: npt.NDArray[np.uint8], size: UsualSize | None
) -> npt.NDArray[np.float64]:
    """(n, len(FEATURES)) finite numbers, a row per candidate.

    ``pixels`` (H, W, 3) uint8 RGB; ``size`` says how large objects of the label usually are, None: unknown.
    """
    boxes = [_box(c.mask) for c in candidates]
    frame = _Frame(candidates, boxes, prompt, pixels)
    areas = np.array([np.count_nonzero(c.mask) for c in candidates], np.float64)
    overlap = _overlaps(frame.masks)
    other = np.array([[a.source != b.source for b in candidates] for a in candidates])
    rows = []
    for i, candidate in enumerate(candidates):
        source = [float(candidate.source == name) for name in SOURCES]
        known = np.isfinite(candidate.score)
        sure = min(max(candidate.score, 0.0), 1.0) if known else 0.5
        logit = float(np.clip(np.log((sure + 0.01) / (1.01 - sure)), -_LOGIT, _LOGIT))
        z = 0.0 if size is None else (np.log(max(areas[i], 1.0)) - size.mean) / max(size.spread, 0.1)
        z = float(np.clip(z, -_WIDEST, _WIDEST))
        rest = np.delete(overlap[i], i)
        apart = overlap[i][other[i]]
        nearest = float(rest.max()) if len(rest) else 0.0
        rows.append(
            [
                *source,
                *(logit * here for here in source),
                float(candidate.usual),
                z,
                z * z,
                float(rest.mean()) if len(rest) else 0.0,
                nearest,
                float(apart.max()) if len(apart) else 0.0,
                *(_nearest_from(overlap[i], candidates, i, name) for name in SOURCES),
                frame.depth(i),
                _box_fit(boxes[i], prompt),
                *frame.shape(i),
                *frame.edge(i),
                _at_border(candidate.mask),
            ]
        )
    return np.nan_to_num(np.array(rows, np.float64).reshape(-1, len(FEATURES)), posinf=0.0, neginf=0.0)


def _nearest_from(
    overlap: npt.NDArray[np.float64], candidates: Sequence[Candidate], i: int, source: str
) -> float:
    """How like the nearest other candidate of a source it is; 0 where there is none."""
    return max(
        (float(overlap[j]) for j, c in enumerate(candidates) if j != i and c.source == source), default=0.0
    )


class _Frame:
    """All candidates and the picture around them, reduced to ``_SIDE`` pixels at most."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        boxes: Sequence[tuple[int, int, int, int]],
        prompt: Prompt,
        pixels: npt.NDArray[np.uint8],
    ) -> None:
        height, width = pixels.shape[:2]
        clicks = [(int(x), int(y), int(x) + 1, int(y) + 1) for x, y, _ in prompt.points]
        around = np.array([*boxes, *clicks], np.int64)
        x0, y0 = (max(0, int(v) - 3) for v in around[:, :2].min(0))
        x1, y1 = (int(v) + 3 for v in around[:, 2:].max(0))
        x1, y1 = max(min(x1, width), x0 + 1), max(min(y1, height), y0 + 1)
        scale = min(1.0, _SIDE / max(x1 - x0, y1 - y0))
        size = (max(2, round((x1 - x0) * scale)), max(2, round((y1 - y0) * scale)))
        self.masks = np.stack(
            [
                cv2.resize(np.uint8(255) * c.mask[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA) >= 128
                for c in candidates
            ]
        )
        crop = cv2.resize(np.ascontiguousarray(pixels[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
        self._lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB).astype(np.float32)
        self._click: tuple[int, int] | None = None
        if prompt.points:
            x, y, _ = prompt.points[0]
            column = int((x - x0) * size[0] / (x1 - x0))
            row = int((y - y0) * size[1] / (y1 - y0))
            self._click = min(max(row, 0), size[1] - 1), min(max(column, 0), size[0] - 1)

    def depth(self, i: int) -> float:
        """How far inside the mask the first click lies: 1 in its middle, 0 at its edge or for a box."""
        if self._click is None or not self.masks[i].any():
            return 0.0
        inner = cv2.distanceTransform(np.pad(self.masks[i], 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        return float(inner[self._click] / inner.max())

    def shape(self, i: int) -> tuple[float, float]:
        """Share of its convex hull that the mask fills, and the share of it that lies in smaller pieces."""
        part = self.masks[i].astype(np.uint8)
        outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        area = float(part.sum())
        if not outlines or not area:
            return 0.0, 1.0
        hull = cv2.convexHull(np.vstack(outlines))
        # the hull goes through the middles of pixels: by Pick's theorem half its outline is missing, and one
        solid = area / (cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1)
        if len(outlines) == 1:
            return solid, 0.0
        _, _, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        return solid, 1.0 - float(stats[1:, cv2.CC_STAT_AREA].max()) / area

    def edge(self, i: int) -> tuple[float, float]:
        """How much the colour changes across the mask's edge, and how even it is inside."""
        part = self.masks[i].astype(np.uint8)
        cross = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        inner = (part - cv2.erode(part, cross, borderType=cv2.BORDER_REPLICATE)).view(np.bool_)
        outer = (cv2.dilate(part, cross) - part).view(np.bool_)
        if not inner.any() or not outer.any():
            return 0.0, 0.0
        inside, outside = (np.array(cv2.mean(self._lab, ring.view(np.uint8))[:3]) for ring in (inner, outer))
        step = float(np.linalg.norm(inside - outside))
        spread = float(np.linalg.norm(cv2.meanStdDev(self._lab, mask=part)[1]))
        return float(np.log1p(step)), float(np.log1p(spread))


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), x1 and y1 exclusive; zeros when empty."""
    x, y, w, h = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return int(x), int(y), int(x + w), int(y + h)


def _overlaps(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(n, n) IoU of all pairs of (n, h, w) masks."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    common = (flat @ flat.T).astype(np.float64)
    area = np.diag(common)
    return np.asarray(common / np.maximum(area[:, None] + area[None] - common, 1.0), np.float64)


def _box_fit(box: tuple[int, int, int, int], prompt: Prompt) -> float:
    """IoU of the mask's box with the drawn one; 0 where none was drawn."""
    if prompt.box is None:
        return 0.0
    return float(box_iou(np.array([box], np.float32), prompt.box)[0])


def _at_border(mask: npt.NDArray[np.bool_]) -> float:
    """How much of the picture's border the mask touches, 1 from an eighth on."""
    touching = sum(int(np.count_nonzero(side)) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return min(1.0, 4.0 * touching / sum(mask.shape))
