"""A loaded segmentation version: images in, columns of instances out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.instances import Instances
from ml_backend.learners.embedding import EMBEDDING_DIM, projection_matrix
from ml_backend.learners.guarded_batches import GuardedBatches
from ml_backend.learners.pixels import prepare
from ml_backend.learners.segmentation.network import HEAD_CHANNELS, NetworkConfig, SegmentationNetwork
from ml_backend.learners.segmentation.reading import Found, find, map_doubts, predicted_iou
from ml_backend.masks.rle import rle_box

__all__ = ["SegmentationPredictor", "upscaled"]

Pixels = npt.NDArray[np.uint8]

_FEW_PIXELS = 512
"""Doubts are measured on maps of at most this side: entropy needs no finer ones."""


class SegmentationPredictor:
    """Predicts with one model version; safe under threads.

    Neighbours of one size go through the network together, ``batch`` at a time, see ``GuardedBatches``.
    """

    def __init__(
        self, model: SegmentationNetwork, config: NetworkConfig, *, device: torch.device, batch: int = 4
    ) -> None:
        self.labels = config.labels
        self.embedding_dim = EMBEDDING_DIM
        self.config = config
        self._model = model.eval()
        self._device = device
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        self._projection = projection_matrix(HEAD_CHANNELS).numpy()
        self._batches = GuardedBatches("deeplabv3", device, batch=batch, run=self._forward, move=self._move)
        self.fallback = self._batches.fallback

    def predict(self, images: Sequence[Pixels]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        for _, neighbours in groupby(images, key=lambda image: image.shape):
            alike = list(neighbours)
            for image, (coarse, logits) in zip(alike, self._batches(alike), strict=True):
                maps = self._full_size(logits, (image.shape[0], image.shape[1]))
                yield self._instances(maps, coarse)

    def maps(self, image: Pixels) -> npt.NDArray[np.float32]:
        """(labels, H, W) float32 calibrated probabilities of one picture at its full size."""
        return self._full_size(self.coarse_logits(image), (image.shape[0], image.shape[1]))

    def coarse_logits(self, image: Pixels) -> Tensor:
        """(labels, h, w) float32 logits of one picture at the decoder's resolution, not calibrated. See
        ``upscaled``."""
        _, logits = next(self._batches([image]))
        return logits

    def _move(self, device: torch.device) -> None:
        self._device = device
        self._model.to(device)

    def _forward(self, images: Sequence[Pixels]) -> list[tuple[Tensor, Tensor]]:
        """Coarse features and logits of pictures of one size."""
        config = self.config
        pixels = torch.stack(
            [
                prepare(
                    torch.from_numpy(np.array(image)).to(self._device).permute(2, 0, 1),
                    config.scale,
                    config.max_side,
                    config.normalise,
                )
                for image in images
            ]
        )
        coarse, logits = self._model.encode(pixels)
        return [(c.float().cpu(), z.float().cpu()) for c, z in zip(coarse, logits, strict=True)]

    def _full_size(self, logits: Tensor, hw: tuple[int, int]) -> npt.NDArray[np.float32]:
        line = torch.tensor(self.config.calibration, dtype=torch.float32)
        calibrated = logits * line[:, :1, None] + line[:, 1:, None]
        maps: npt.NDArray[np.float32] = upscaled(calibrated, hw).sigmoid_().numpy()
        return maps

    def _instances(self, maps: npt.NDArray[np.float32], coarse: Tensor) -> Instances:
        config = self.config
        grid_hw = (int(coarse.shape[1]), int(coarse.shape[2]))
        rows = find(maps, config.threshold, unit=config.unit, min_area=config.min_area, grid_hw=grid_hw)
        features = coarse.flatten(1).numpy().T  # (cells, 256)
        step = max(1, max(maps.shape[1:]) // _FEW_PIXELS)
        doubts = map_doubts(maps[:, ::step, ::step], config.threshold)
        if rows:
            doubts["mask"] = float(1 - predicted_iou(_column(rows, "overlap"), config.quality).mean())
        feature = np.asarray(features.mean(axis=0) @ self._projection, np.float32)
        if not rows:
            empty = Instances.empty(self.embedding_dim)
            return Instances(
                empty.label, empty.box_xyxy, [], empty.score, empty.quality, empty.embedding, doubts, feature
            )
        attention = np.stack([row.grid.reshape(-1) for row in rows])
        pooled = attention @ features / np.maximum(attention.sum(axis=1, keepdims=True), 1e-6)
        return Instances(
            label=np.array([row.label for row in rows], np.int64),
            box_xyxy=np.array([rle_box(row.rle) for row in rows], np.float32),
            rle=[row.rle for row in rows],
            score=_column(rows, "score"),
            quality=predicted_iou(_column(rows, "overlap"), config.quality),
            embedding=np.asarray(pooled @ self._projection, np.float32),
            doubts=doubts,
            feature=feature,
        )


def upscaled(logits: Tensor, hw: tuple[int, int]) -> Tensor:
    """(labels, H, W) logits at the full size of a picture."""
    return functional.interpolate(logits[None], size=list(hw), mode="bilinear", align_corners=False)[0]


def _column(rows: Sequence[Found], name: str) -> npt.NDArray[np.float32]:
    return np.array([getattr(row, name) for row in rows], np.float32)
