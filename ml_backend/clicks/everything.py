"""Masks of everything on a picture, from any click segmenter, without a person and without a training.

Segmenters whose one embedding serves all clicks (the SAM family) are asked at the points of a grid, as
"segment anything" makes its automatic masks (Kirillov et al., ICCV 2023, section 4 and appendix B). The grid
is asked from coarse to fine, and points on a mask that counts already are left out.

The others (``classical``, click networks) look at the picture anew for each click. A grid fine enough for
small objects would take minutes of a core a picture. They are asked with boxes instead: those around the
candidates of ``learners.weak.proposals``.

Then a mask counts if the segmenter expects it to be right (``score``) and if it is stable. On a grid
stability is the paper's: IoU of the masks at a higher and a lower threshold of the logits. With boxes it is
the IoU of the answer and the candidate: two ways to find it agree. Small separate parts and small holes are
dropped, and of doubles the better mask stays (non-maximum suppression over the IoU of masks).

The picture is worked on at a bounded size and masks are kept as crops: memory does not grow with the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ml_backend.clicks.base import ClickResult, ClickSegmenter, Embedding, ManyMasks, Prompt
from ml_backend.clicks.everything_settings import EverythingSettings
from ml_backend.clicks.sifting import FoundMask, apart, found_mask, without_doubles
from ml_backend.instances import Rle
from ml_backend.learners.mask_pasting import crop_to_rle
from ml_backend.learners.weak.candidates import Crop
from ml_backend.learners.weak.proposals import find_proposals, rle_at
from ml_backend.learners.weak.sources import get_source

__all__ = ["Everything", "PointsSegmenter", "segment_everything"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_OFFSET = 1.0
"""Logits this far above and below 0 are the two thresholds between which a mask must not change."""
_STRIDES = (4, 2, 1)
_COVERS = 0.05
"""A mask larger than this share of the picture may hold further objects: points on it are asked too."""
_CANDIDATES_SIDE = 480
_CLASSICAL_MOST = 300
"""Candidates of each classical way to find them, before the best of all are taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Everything:
    """n masks of a picture, the most trusted first.

    ``crops`` lie at the worked size ``work_hw``, ``hw`` is that of the picture. ``score`` (n,), the
    expected IoU, and ``stability`` (n,) are float32 in 0..1.
    """

    hw: tuple[int, int]
    work_hw: tuple[int, int]
    crops: list[Crop]
    score: Floats
    stability: Floats

    @property
    def trust(self) -> Floats:
        """(n,) float32 in 0..1: score times stability."""
        return np.asarray(self.score * self.stability, np.float32)

    def rles(self) -> list[Rle]:
        """The masks at the size of the picture."""
        return [rle_at(crop, self.work_hw, self.hw) for crop in self.crops]


@runtime_checkable
class PointsSegmenter(Protocol):
    """A segmenter that answers many clicks at once, each on its own."""

    points_batch: int

    def segment_points(self, embedding: Embedding, points: Floats) -> ClickResult:
        """All masks of each of n clicks (n, 2) xy: (k, H, W), k a multiple of n, with their logits."""
        ...


def segment_everything(
    segmenter: ClickSegmenter, image: npt.NDArray[np.uint8], settings: EverythingSettings | None = None
) -> Everything:
    """Masks of an (H, W, 3) uint8 RGB picture. The same picture gives the same masks."""
    settings = settings or EverythingSettings()
    small = _reduced(image, settings.work_side)
    hw = (small.shape[0], small.shape[1])
    embedding = segmenter.embed(small)
    if segmenter.persist:
        found = _from_grid(segmenter, embedding, settings)
    else:
        found = _from_candidates(segmenter, embedding, small, settings)
    found = [mask for mask in found if mask.trust >= settings.min_trust]
    found = apart(found, settings.overlap)[: settings.most]
    return Everything(
        (image.shape[0], image.shape[1]),
        hw,
        [mask.crop for mask in found],
        np.array([mask.score for mask in found], np.float32),
        np.array([mask.stability for mask in found], np.float32),
    )


def _from_grid(
    segmenter: ClickSegmenter, embedding: Embedding, settings: EverythingSettings
) -> list[FoundMask]:
    """Masks of the points of a grid, without doubles."""
    hw = embedding.hw
    found: list[FoundMask] = []
    covered = np.zeros(hw, np.bool_)
    for points in _grids(hw, settings.side):
        points = points[~covered[points[:, 1].astype(int), points[:, 0].astype(int)]]
        for result in _answers(segmenter, embedding, points):
            sure = (
                (mask, float(score), stability)
                for mask, score, stability in zip(result.masks, result.iou, _stability(result), strict=True)
                if score >= settings.min_score and stability >= settings.min_stability
            )
            found += _counting(sure, settings, hw)
            # few points give many masks: drop doubles on the way, or memory grows with the grid
            found = without_doubles(found, settings.nms)
        for mask in found:
            if mask.area <= _COVERS * covered.size and mask.trust >= settings.min_trust:
                h, w = mask.crop.inside.shape
                covered[mask.crop.y : mask.crop.y + h, mask.crop.x : mask.crop.x + w] |= mask.crop.inside
    return found


def _from_candidates(
    segmenter: ClickSegmenter,
    embedding: Embedding,
    image: npt.NDArray[np.uint8],
    settings: EverythingSettings,
) -> list[FoundMask]:
    """Masks of the boxes of classical candidates, without doubles."""
    hw = embedding.hw
    source = get_source("classical", _CLASSICAL_MOST)
    candidates = find_proposals(image, source, most=settings.candidates, work_side=_CANDIDATES_SIDE)
    sy, sx = hw[0] / candidates.work_hw[0], hw[1] / candidates.work_hw[1]

    def answers() -> Iterator[tuple[Bools, float, float]]:
        for crop in candidates.crops:
            h, w = crop.inside.shape
            box = (crop.x * sx, crop.y * sy, (crop.x + w) * sx, (crop.y + h) * sy)
            result = segmenter.segment(embedding, Prompt((), box, ""), None)
            mask = result.masks[0]
            yield mask, float(result.iou[0]), _agreement(mask, rle_at(crop, candidates.work_hw, hw))

    return without_doubles([*_counting(answers(), settings, hw)], settings.nms)


def _reduced(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return np.ascontiguousarray(image)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _grids(hw: tuple[int, int], side: int) -> Iterator[Floats]:
    """(n, 2) xy of the points of a square grid, in passes from coarse to fine; no point comes twice."""
    step = max(max(hw) / side, 1.0)
    rows, columns = max(1, round(hw[0] / step)), max(1, round(hw[1] / step))
    row, column = np.divmod(np.arange(rows * columns), columns)
    done = np.zeros(rows * columns, np.bool_)
    for stride in _STRIDES:
        now = (row % stride == stride // 2) & (column % stride == stride // 2) & ~done
        done |= now
        if now.any():
            xy = np.stack([(column[now] + 0.5) * hw[1] / columns, (row[now] + 0.5) * hw[0] / rows], axis=1)
            yield xy.astype(np.float32)


def _answers(segmenter: ClickSegmenter, embedding: Embedding, points: Floats) -> Iterator[ClickResult]:
    if isinstance(segmenter, PointsSegmenter):
        for start in range(0, len(points), segmenter.points_batch):
            yield segmenter.segment_points(embedding, points[start : start + segmenter.points_batch])
        return
    for x, y in points.tolist():
        prompt = Prompt(((x, y, True),), None, "")
        if isinstance(segmenter, ManyMasks):
            yield segmenter.segment_all(embedding, prompt)
        else:
            yield segmenter.segment(embedding, prompt, None)


def _stability(result: ClickResult) -> list[float]:
    """IoU of the masks at a higher and a lower threshold: how little the outline depends on it."""
    if result.logits is None:
        return [1.0] * len(result.masks)
    inner = (result.logits > _OFFSET).sum(axis=(1, 2))
    outer = (result.logits > -_OFFSET).sum(axis=(1, 2))
    return [float(v) for v in inner / np.maximum(outer, 1)]


def _agreement(mask: Bools, candidate: Rle) -> float:
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    own = crop_to_rle(mask[y : y + h, x : x + w], (x, y), (mask.shape[0], mask.shape[1]))
    return float(coco_mask.iou([own], [candidate], [0])[0][0])


def _counting(
    answers: Iterable[tuple[Bools, float, float]], settings: EverythingSettings, hw: tuple[int, int]
) -> Iterator[FoundMask]:
    """The (mask, score, stability) of a possible size, tidied."""
    max_px = settings.max_share * hw[0] * hw[1]
    for mask, score, stability in answers:
        found = found_mask(mask, score, stability, min_px=settings.min_px, max_px=max_px)
        if found is not None:
            yield found
