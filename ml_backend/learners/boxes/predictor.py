"""A loaded version of a box learner: images in, columns of instances out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.instances import Instances
from ml_backend.learners.boxes.description import BoxNetwork
from ml_backend.learners.boxes.detector import BoxDetector, Found
from ml_backend.learners.embedding import EMBEDDING_DIM, projection_matrix
from ml_backend.learners.guarded_batches import GuardedBatches
from ml_backend.learners.pixels import as_input, net_size
from ml_backend.masks.shapes import box_rle

__all__ = ["BoxPredictor"]


class BoxPredictor:
    """Predicts with one model version; safe under threads.

    Boxes are those of the network, in fractions of pixels; each mask is the filled box.
    """

    def __init__(
        self, name: str, model: BoxDetector, network: BoxNetwork, *, device: torch.device, batch: int = 4
    ) -> None:
        self.labels = network.labels
        self.embedding_dim = EMBEDDING_DIM
        self.network = network
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        self._model = model.eval()
        self._device = device
        self._projection = projection_matrix(model.pooled_size)
        self._batches = GuardedBatches(name, device, batch=batch, run=self._find, move=self._move)
        self.fallback = self._batches.fallback

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        return self._batches(images)

    def _move(self, device: torch.device) -> None:
        self._device = device
        self._model.to(device)
        self._projection = self._projection.to(device)

    def _find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Instances]:
        tensors = [self._prepare(image) for image in images]
        return [
            self._instances(found, (int(tensor.shape[-2]), int(tensor.shape[-1])), image.shape[:2])
            for found, tensor, image in zip(self._model.find(tensors), tensors, images, strict=True)
        ]

    def _prepare(self, image: npt.NDArray[np.uint8]) -> Tensor:
        network = self.network
        net_hw = net_size(image.shape[0], image.shape[1], network.geometry.scale, network.max_side)
        return as_input(image, net_hw, network.normalise, self._device)

    def _instances(self, found: Found, net_hw: tuple[int, int], hw: tuple[int, ...]) -> Instances:
        if not len(found.boxes):
            return Instances.empty(self.embedding_dim)
        back = np.array([hw[1] / net_hw[1], hw[0] / net_hw[0]] * 2, np.float32)
        boxes = _numpy(found.boxes) * back
        return Instances(
            label=found.labels.cpu().numpy().astype(np.int64),
            box_xyxy=boxes,
            rle=[box_rle(box, (hw[0], hw[1])) for box in boxes],
            score=_numpy(found.scores),
            quality=_numpy(found.quality),
            # divided by 7: the length is that of one cell's feature vector
            embedding=_numpy(found.pooled.flatten(1) @ self._projection / 7),
        )


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
