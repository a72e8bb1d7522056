"""Instances from the heads alone: proposals of a picture, their class scores and integrity."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from ml_backend.instances import Instances
from ml_backend.learners.weak.bags import is_big
from ml_backend.learners.weak.features import classical_features
from ml_backend.learners.weak.heads import Heads
from ml_backend.learners.weak.maps import overlap_maps
from ml_backend.learners.weak.proposals import MaskSource, Proposals, find_proposals, rle_at
from ml_backend.learners.weak.selection import select
from ml_backend.masks.empty import without_empty_masks
from ml_backend.masks.rle import rle_box

__all__ = ["CimPredictor", "head_scores"]

Floats = npt.NDArray[np.float32]


def head_scores(heads: Heads, features: Floats, prior: Floats) -> tuple[Floats, Floats, Floats]:
    """Class score and integrity (n, C), means over the branches without the background, and embeddings
    (n, width) of proposals with ``features`` (n, f) and objectness ``prior`` (n,)."""
    device = heads.mean.device
    with torch.inference_mode():
        x = torch.from_numpy(features).to(device)
        output = heads(x, [len(features)])[0]
        classes = torch.stack(output.classes).mean(dim=0)[:, 1:]
        learnt = torch.stack(output.integrity).mean(dim=0)
        integrity = torch.where(heads.blind, torch.from_numpy(prior).to(device)[:, None], learnt)[:, 1:]
        hidden = heads.embed(x)
    return tuple(np.asarray(t.float().cpu().numpy()) for t in (classes, integrity, hidden))  # type: ignore[return-value]


class CimPredictor:
    """Predicts with one version of the heads; safe under threads: one lock around the network."""

    def __init__(
        self,
        heads: Heads,
        labels: tuple[str, ...],
        source: MaskSource,
        *,
        most: int,
        work_side: int,
        threshold: float,
        nms: float,
    ) -> None:
        self.labels = labels
        self._heads = heads.eval()
        self._source = source
        self._most, self._work_side = most, work_side
        self._threshold, self._nms = threshold, nms
        self._lock = threading.Lock()
        self.embedding_dim = int(heads.mil_class.in_features)
        self.nbytes = sum(tensor.nbytes for tensor in heads.state_dict().values())

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order; score = class score, quality = integrity."""
        for image in images:
            found = find_proposals(image, self._source, most=self._most, work_side=self._work_side)
            yield self._instances(found)

    def tag_scores(self, image: npt.NDArray[np.uint8]) -> Floats:
        """(C,) how surely the picture shows each label: the best class score times integrity."""
        found = find_proposals(image, self._source, most=self._most, work_side=self._work_side)
        if not len(found):
            return np.zeros(len(self.labels), np.float32)
        classes, integrity, _ = self._scores(found)
        return np.asarray((classes * integrity).max(axis=0), np.float32)

    def _scores(self, found: Proposals) -> tuple[Floats, Floats, Floats]:
        with self._lock:
            return head_scores(self._heads, classical_features(found), found.prior)

    def _instances(self, found: Proposals) -> Instances:
        if not len(found):
            return Instances.empty(self.embedding_dim)
        classes, integrity, hidden = self._scores(found)
        iou, cover = overlap_maps(found.packed)
        product = np.where(is_big(cover)[:, None], 0, classes * integrity)
        chosen = select(product, iou, cover, threshold=self._threshold, nms=self._nms)
        rles = [rle_at(found.crops[i], found.work_hw, found.hw) for i in chosen.place.tolist()]
        return without_empty_masks(
            Instances(
                label=chosen.label,
                box_xyxy=np.array([rle_box(rle) for rle in rles], np.float32).reshape(-1, 4),
                rle=rles,
                score=classes[chosen.place, chosen.label],
                quality=integrity[chosen.place, chosen.label],
                embedding=hidden[chosen.place],
            )
        )
