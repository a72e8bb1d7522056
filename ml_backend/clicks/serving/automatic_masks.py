"""Masks of everything on a picture as proposals for learning from tags."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.everything import segment_everything
from ml_backend.clicks.everything_settings import EverythingSettings
from ml_backend.clicks.serving.auto_choice import choose
from ml_backend.clicks.serving.catalog import SEGMENTERS, build_segmenter
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.errors import BadInput
from ml_backend.learners.weak.candidates import Crop, Maps
from ml_backend.settings import BackendSettings

__all__ = ["SegmenterMasks", "from_settings"]

_FINEST_GRID = 16
_NMS = 0.9
"""Learning from tags wants parts and wholes: only near-duplicates go."""

Floats = npt.NDArray[np.float32]


class SegmenterMasks:
    """See ``ml_backend.learners.weak.proposals.MaskSource``. ``most``: proposals wanted of a picture.

    ``name`` stands for the weights as well: other weights give other masks.
    """

    def __init__(self, segmenter: ClickSegmenter, most: int) -> None:
        self.name = f"segmenter {segmenter.encoder}"
        self._segmenter = segmenter
        self._settings = EverythingSettings(
            side=min(_FINEST_GRID, max(2, math.ceil(most**0.5))),
            candidates=most,
            min_score=0.0,
            min_stability=0.0,
            min_trust=0.0,
            nms=_NMS,
            overlap=1.0,
            min_px=10,
            max_share=0.6,
            most=4 * most,
        )

    def masks(self, image: npt.NDArray[np.uint8], maps: Maps) -> tuple[list[Crop], Floats]:
        """All masks of a picture of working size, trusted by predicted IoU times stability."""
        found = segment_everything(self._segmenter, image, self._settings)
        return found.crops, found.trust


def from_settings(most: int) -> SegmenterMasks:
    """The segmenter that the settings name. Raises BadInput for one without a checkpoint: its masks of single
    clicks are no better than what is found without clicks; ModelError when its checkpoint is missing."""
    settings = BackendSettings()
    if settings.segmenter == AUTO:
        settings = choose(settings).best.settings
    entry = SEGMENTERS.get(settings.segmenter)
    if entry is None or not entry.needs_checkpoint:
        raise BadInput(
            f"segmenter {settings.segmenter!r} makes no automatic masks",
            field="options.proposals",
            hint="Name one with a checkpoint (GROUNDSWELL_SEGMENTER=sam), or use proposals=classical",
        )
    return SegmenterMasks(build_segmenter(settings.segmenter, settings), most)
