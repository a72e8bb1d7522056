"""A loaded Mask R-CNN version: images in, columns of instances out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from ml_backend.instances import Instances
from ml_backend.learners.blurred import mask_entropy
from ml_backend.learners.embedding import EMBEDDING_DIM, expected_iou, mask_attention, projection_matrix
from ml_backend.learners.guarded_batches import GuardedBatches
from ml_backend.learners.mask_pasting import paste_masks, without_specks
from ml_backend.learners.maskrcnn.architecture import NetworkConfig
from ml_backend.learners.pixels import as_input, net_size
from ml_backend.masks.empty import without_empty_masks
from ml_backend.masks.shapes import boxes_of

__all__ = ["MaskRcnnPredictor"]


class MaskRcnnPredictor:
    """Predicts with one model version; safe under threads.

    ``batch`` images go through the backbone together, see ``GuardedBatches``.
    """

    def __init__(
        self, model: MaskRCNN, config: NetworkConfig, *, device: torch.device, batch: int = 4
    ) -> None:
        self.labels = config.labels
        self.embedding_dim = EMBEDDING_DIM
        self.config = config
        self._model = model.eval()
        self._device = device
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        pooled = model.backbone.out_channels * 49
        self._projection = projection_matrix(int(pooled))
        self._batches: GuardedBatches[npt.NDArray[np.uint8], Instances] = GuardedBatches(
            "maskrcnn", device, batch=batch, run=lambda images: self._batch_of(images), move=self._move
        )
        self.fallback = self._batches.fallback

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        return self._batches(images)

    def _move(self, device: torch.device) -> None:
        self._device = device
        self._model.to(device)
        self._projection = self._projection.to(device)

    def _batch_of(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Instances]:
        tensors = [self._prepare(image) for image in images]
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        batch, _ = self._model.transform(tensors)
        features = self._model.backbone(batch.tensors)
        proposals, _ = self._model.rpn(batch, features)
        return [
            self._instances(
                {name: level[i : i + 1] for name, level in features.items()},
                proposals[i],
                sizes[i],
                (image.shape[0], image.shape[1]),
            )
            for i, image in enumerate(images)
        ]

    def _prepare(self, image: npt.NDArray[np.uint8]) -> Tensor:
        net_hw = net_size(image.shape[0], image.shape[1], self.config.geometry.scale, self.config.max_side)
        return as_input(image, net_hw, self.config.normalise, self._device)

    def _instances(
        self, features: dict[str, Tensor], proposals: Tensor, net_hw: tuple[int, int], hw: tuple[int, int]
    ) -> Instances:
        heads = self._model.roi_heads
        detected = heads.detect(features, [proposals], [net_hw])[0]
        window, score, label = detected["boxes"], detected["scores"], detected["labels"]
        if not len(window):
            return Instances.empty(self.embedding_dim)
        probability = detected["masks"][:, 0]
        pooled = heads.box_roi_pool(features, [window], [net_hw])
        embedding = mask_attention(pooled, probability, self._projection)
        # versions from before there was a head for it
        quality = detected["quality"] if "quality" in detected else expected_iou(probability)
        grid = without_specks(_numpy(probability))
        back = window.new_tensor([hw[1] / net_hw[1], hw[0] / net_hw[0]] * 2)
        window_xyxy = _numpy(window * back)
        # torchvision cuts mask targets with pixel i at coordinate i, not i + 1/2: masks learnt from
        # them lie half a network pixel too far up and left; not undone, that costs small objects IoU
        rle = paste_masks(grid, window_xyxy, hw, lag_px=0.5 * hw[1] / net_hw[1])
        found = Instances(
            label=(_numpy(label) - 1).astype(np.int64),
            box_xyxy=boxes_of(rle) if self.config.mask_margin else window_xyxy,
            rle=rle,
            score=_numpy(score),
            quality=_numpy(quality),
            embedding=_numpy(embedding),
            doubts={"mask_entropy": mask_entropy(probability, score)},
        )
        return without_empty_masks(found)


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
