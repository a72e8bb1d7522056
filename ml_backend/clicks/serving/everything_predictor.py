"""Predictions of the learner ``everything``: all masks that a click segmenter finds, under one label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.everything import segment_everything
from ml_backend.clicks.everything_settings import EverythingSettings
from ml_backend.clicks.serving.auto_choice import settings_for
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.clicks.serving.everything_options import EverythingOptions
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.instances import Instances
from ml_backend.learners.mask_features import MaskFeatures
from ml_backend.masks.empty import without_empty_masks
from ml_backend.masks.rle import rle_box
from ml_backend.settings import BackendSettings

__all__ = ["EverythingPredictor", "everything_segmenter"]


class EverythingPredictor:
    """See ``ml_backend.learners.base.Predictor``; safe under threads, as segmenters are."""

    def __init__(
        self, segmenter: ClickSegmenter, labels: tuple[str, ...], label: str, options: EverythingOptions
    ) -> None:
        self.labels = labels
        self.nbytes = segmenter.nbytes
        self._segmenter = segmenter
        self._label = labels.index(label)
        self._settings = EverythingSettings(most=options.most, min_trust=options.min_trust)
        self._features = MaskFeatures("classical")
        self.embedding_dim = self._features.dim

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order: ``score`` is the trust."""
        for image in images:
            yield self._one(image)

    def _one(self, image: npt.NDArray[np.uint8]) -> Instances:
        found = segment_everything(self._segmenter, image, self._settings)
        rles = found.rles()
        n = len(rles)
        instances = Instances(
            label=np.full(n, self._label, np.int64),
            box_xyxy=np.array([rle_box(rle) for rle in rles], np.float32).reshape(n, 4),
            rle=rles,
            score=found.trust,
            quality=found.score,
            embedding=self._features(image, rles),
        )
        return without_empty_masks(instances)


def everything_segmenter(name: str, device: str) -> ClickSegmenter:
    """The segmenter of that name, empty: that of the settings. Raises ModelError."""
    settings = BackendSettings()
    if device != "auto":
        settings = settings.model_copy(update={"device": device})
    if settings.segmenter == "project":  # trained on finished tasks, of which there are none yet
        settings = settings.model_copy(update={"segmenter": AUTO})
    name = name or settings.segmenter
    return build_segmenter(name, settings_for(name, settings))
