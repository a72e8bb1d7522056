"""Masks of everything on a picture: a click segmenter asked at the points of a grid.

This is how "segment anything" makes its automatic masks (Kirillov et al., ICCV 2023, section 4). Here any
click segmenter with a checkpoint serves as a source of proposals for learning from tags.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickSegmenter, Prompt
from ml_backend.clicks.serving.catalog import SEGMENTERS, build_segmenter
from ml_backend.errors import BadInput
from ml_backend.learners.weak.candidates import Crop, Maps
from ml_backend.settings import BackendSettings

__all__ = ["SegmenterMasks", "from_settings"]

_FINEST_GRID = 16
_MIN_PX, _MAX_SHARE = 10, 0.6
_OFFSET = 1.0

Floats = npt.NDArray[np.float32]


class SegmenterMasks:
    """See ``ml_backend.learners.weak.proposals.MaskSource``. ``most``: proposals wanted of a picture."""

    name = "segmenter"

    def __init__(self, segmenter: ClickSegmenter, most: int) -> None:
        self._segmenter = segmenter
        self._side = min(_FINEST_GRID, max(2, math.ceil(most**0.5)))

    def masks(self, image: npt.NDArray[np.uint8], maps: Maps) -> tuple[list[Crop], Floats]:
        """All masks that one click at each grid point gives, trusted by predicted IoU times stability."""
        height, width = image.shape[:2]
        embedding = self._segmenter.embed(image)
        crops, trust = [], []
        for row in range(self._side):
            for column in range(self._side):
                point = ((column + 0.5) / self._side * width, (row + 0.5) / self._side * height, True)
                found = self._segmenter.segment(embedding, Prompt((point,), None, ""), None)
                logits = [None] * len(found.masks) if found.logits is None else found.logits
                for mask, iou, logit in zip(found.masks, found.iou, logits, strict=True):
                    if _MIN_PX <= mask.sum() <= _MAX_SHARE * mask.size:
                        crops.append(_crop(mask))
                        trust.append(float(iou) * (1.0 if logit is None else _stability(logit)))
        return crops, np.clip(np.asarray(trust, np.float32), 0, 1)


def from_settings(most: int) -> SegmenterMasks:
    """The segmenter that the settings name. Raises BadInput for one without a checkpoint: its masks of single
    clicks are no better than what is found without clicks; ModelError when its checkpoint is missing."""
    settings = BackendSettings()
    entry = SEGMENTERS.get(settings.segmenter)
    if entry is None or not entry.needs_checkpoint:
        raise BadInput(
            f"segmenter {settings.segmenter!r} makes no automatic masks",
            field="options.proposals",
            hint="Name one with a checkpoint (GROUNDSWELL_SEGMENTER=sam), or use proposals=classical",
        )
    return SegmenterMasks(build_segmenter(settings.segmenter, settings), most)


def _crop(mask: npt.NDArray[np.bool_]) -> Crop:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return Crop(int(x), int(y), np.array(mask[y : y + h, x : x + w]))


def _stability(logits: Floats) -> float:
    """IoU of the masks at a higher and a lower threshold: how little the outline depends on it."""
    inner, outer = int((logits > _OFFSET).sum()), int((logits > -_OFFSET).sum())
    return inner / max(outer, 1)
