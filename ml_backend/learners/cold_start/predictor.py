"""A cold start as a predictor: the detector's boxes under the labels of the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import batched_nms

from ml_backend.instances import Instances
from ml_backend.learners.class_map import ClassMap
from ml_backend.learners.cold_start.box_masks import BoxMasks
from ml_backend.learners.cold_start.settings import ColdStart
from ml_backend.learners.cold_start.source import UNKNOWN_IOU, Hits, Source
from ml_backend.learners.guarded_batches import GuardedBatches
from ml_backend.masks.empty import without_empty_masks

__all__ = ["ColdStartPredictor"]


class ColdStartPredictor:
    """See ``ml_backend.learners.base.Predictor``; safe under threads."""

    def __init__(
        self,
        source: Source,
        mapping: ClassMap,
        masks: BoxMasks,
        settings: ColdStart,
        *,
        device: torch.device,
    ) -> None:
        self.labels = mapping.ours
        self.embedding_dim = source.embedding_dim
        self.nbytes = source.nbytes + masks.nbytes
        self._source = source
        self._to = np.array(mapping.to, np.int64)
        self._masks = masks
        self._settings = settings
        self._batches = GuardedBatches(
            "zero-shot", device, batch=settings.batch, run=self._find, move=self._move
        )
        self.fallback = self._batches.fallback

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        return self._batches(images)

    def _move(self, device: torch.device) -> None:
        self._source.move(device)
        self._masks.move(device)

    def _find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Instances]:
        found = self._source.find(images)
        return [self._instances(hits, image) for hits, image in zip(found, images, strict=True)]

    def _instances(self, hits: Hits, image: npt.NDArray[np.uint8]) -> Instances:
        if not len(hits.box):
            return Instances.empty(self.embedding_dim)
        limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        box = np.clip(hits.box, 0, limit)
        label = self._to[hits.kind]
        real = (box[:, 2:] - box[:, :2] >= 1).all(axis=1) & np.isfinite(box).all(axis=1)
        rows = np.flatnonzero(real & (label >= 0) & (hits.score >= self._settings.score_threshold))
        kept = batched_nms(
            torch.from_numpy(box[rows]),
            torch.from_numpy(hits.score[rows]),
            torch.from_numpy(label[rows]),
            self._settings.nms,
        )
        rows = rows[kept.numpy()[: self._settings.max_detections]]
        quality = None if hits.quality is None else hits.quality[rows]
        if hits.rle is not None:
            rle = [hits.rle[int(i)] for i in rows]
        else:
            rle, said = self._masks(image, box[rows])
            quality = said if said is not None else quality
        return without_empty_masks(
            Instances(
                label=label[rows],
                box_xyxy=box[rows],
                rle=rle,
                score=hits.score[rows],
                quality=np.full(len(rows), UNKNOWN_IOU, np.float32) if quality is None else quality,
                embedding=hits.embedding[rows],
            )
        )
