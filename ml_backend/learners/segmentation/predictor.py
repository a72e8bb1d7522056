"""A loaded segmentation version: images in, columns of instances out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.device_fallback import DeviceFallback
from ml_backend.instances import Instances
from ml_backend.learners.embedding import EMBEDDING_DIM, projection_matrix
from ml_backend.learners.segmentation.network import HEAD_CHANNELS, NetworkConfig, SegmentationNetwork
from ml_backend.learners.segmentation.pixels import prepare
from ml_backend.learners.segmentation.reading import Found, find, map_doubts, predicted_iou
from ml_backend.masks.rle import rle_box

__all__ = ["SegmentationPredictor"]

log = logging.getLogger(__name__)

_FEW_PIXELS = 512
"""Doubts are measured on maps of at most this side: entropy needs no finer ones."""


class SegmentationPredictor:
    """Predicts with one model version; safe under threads: one lock around the network.

    Neighbours of one size go through the network together, ``batch`` at a time. When a GPU runs out of
    memory the batch is halved, and at a batch of one the model moves to the CPU; after a pause the GPU is
    tried again (``fallback``).
    """

    def __init__(
        self, model: SegmentationNetwork, config: NetworkConfig, *, device: torch.device, batch: int = 4
    ) -> None:
        self.labels = config.labels
        self.embedding_dim = EMBEDDING_DIM
        self.config = config
        self._model = model.to(device).eval()
        self._device = device
        self._batch = max(1, batch)
        self._lock = threading.Lock()
        self.fallback = DeviceFallback("deeplabv3", str(device))
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        self._projection = projection_matrix(HEAD_CHANNELS).numpy()

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        done = 0
        while done < len(images):
            part = self._next(images[done:])
            found = self._guarded(part)
            if found is None:
                continue
            done += len(part)
            for image, (coarse, logits) in zip(part, found, strict=True):
                maps = self._full_size(logits, (image.shape[0], image.shape[1]))
                yield self._instances(maps, coarse)

    def maps(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(labels, H, W) float32 calibrated probabilities of one picture at its full size."""
        found = None
        while found is None:
            found = self._guarded([image])
        return self._full_size(found[0][1], (image.shape[0], image.shape[1]))

    def logits(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(labels, H, W) float32 logits at full size, not calibrated."""
        found = None
        while found is None:
            found = self._guarded([image])
        return _resized(found[0][1], (image.shape[0], image.shape[1])).numpy()

    def _next(self, images: Sequence[npt.NDArray[np.uint8]]) -> Sequence[npt.NDArray[np.uint8]]:
        """The first images of one size, at most a batch."""
        count = 1
        while count < min(self._batch, len(images)) and images[count].shape == images[0].shape:
            count += 1
        return images[:count]

    def _guarded(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[Tensor, Tensor]] | None:
        """Coarse features and logits of one batch; None when memory ran out: try again."""
        with self._lock:
            if self.fallback.is_due():
                self._try_device()
            try:
                return self._forward(images)
            except torch.cuda.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if len(images) > 1:
                    self._batch = len(images) // 2
                    log.warning("the GPU ran out of memory: going on with batches of %d", self._batch)
                else:
                    self._move("cpu")
                    self.fallback.leave("has no memory for a single image", error)
                return None

    def _try_device(self) -> None:
        try:
            self._move(self.fallback.wanted)
        except torch.cuda.OutOfMemoryError as error:
            self._move("cpu")
            torch.cuda.empty_cache()
            self.fallback.leave("is still out of memory", error)
        else:
            self.fallback.come_back()

    def _move(self, device: str) -> None:
        self._device = torch.device(device)
        self._model.to(self._device)

    def _forward(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[Tensor, Tensor]]:
        config = self.config
        with torch.inference_mode():
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
        maps: npt.NDArray[np.float32] = _resized(calibrated, hw).sigmoid_().numpy()
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


def _resized(logits: Tensor, hw: tuple[int, int]) -> Tensor:
    return functional.interpolate(logits[None], size=list(hw), mode="bilinear", align_corners=False)[0]


def _column(rows: Sequence[Found], name: str) -> npt.NDArray[np.float32]:
    return np.array([getattr(row, name) for row in rows], np.float32)
