"""A loaded detectron2 version: images in, columns of instances out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.instances import Instances
from ml_backend.masks.empty import without_empty_masks

__all__ = ["Detectron2Predictor"]


class Detectron2Predictor:
    """One loaded version. Safe under threads: one picture at a time."""

    def __init__(self, model: Any, cfg: Any, labels: tuple[str, ...]) -> None:
        from ml_backend.learners.embedding import EMBEDDING_DIM, projection_matrix

        self.labels = labels
        self.embedding_dim = EMBEDDING_DIM
        self.model = model
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        self.size = int(cfg.INPUT.MIN_SIZE_TEST)
        self._largest = int(cfg.INPUT.MAX_SIZE_TEST)
        self._lock = threading.Lock()
        self._projection = projection_matrix(256 * 49).to(model.device)

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        for image in images:
            with self._lock:
                yield self._one(image)

    def _one(self, image: npt.NDArray[np.uint8]) -> Instances:
        import torch
        from detectron2.data.transforms import ResizeShortestEdge

        from ml_backend.learners.embedding import expected_iou, mask_attention
        from ml_backend.learners.mask_pasting import paste_masks, without_specks

        height, width = image.shape[:2]
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        resize = ResizeShortestEdge([self.size, self.size], self._largest).get_transform(bgr)
        pixels = torch.as_tensor(resize.apply_image(bgr).astype("float32").transpose(2, 0, 1))
        with torch.inference_mode():
            batch = self.model.preprocess_image([{"image": pixels}])
            features = self.model.backbone(batch.tensor)
            proposals, _ = self.model.proposal_generator(batch, features, None)
            found = self.model.roi_heads(batch, features, proposals, None)[0][0]
            if not len(found):
                return Instances.empty(self.embedding_dim)
            probability = found.pred_masks[:, 0].float()
            grid = without_specks(probability.cpu().numpy().astype(np.float32))
            heads = self.model.roi_heads
            roi = heads.box_pooler([features[name] for name in heads.box_in_features], [found.pred_boxes])
            embedding = mask_attention(roi, probability, self._projection)
            quality = expected_iou(probability)
            net_h, net_w = found.image_size
            back = found.pred_boxes.tensor.new_tensor([width / net_w, height / net_h] * 2)
            box_xyxy = (found.pred_boxes.tensor * back).cpu().numpy().astype(np.float32)
        instances = Instances(
            label=found.pred_classes.cpu().numpy().astype(np.int64),
            box_xyxy=box_xyxy,
            # The masks need no shift: detectron2 cuts its mask targets with aligned sampling.
            rle=paste_masks(grid, box_xyxy, (height, width)),
            score=found.scores.cpu().numpy().astype(np.float32),
            quality=quality.cpu().numpy().astype(np.float32),
            embedding=embedding.cpu().numpy().astype(np.float32),
        )
        return without_empty_masks(instances)
