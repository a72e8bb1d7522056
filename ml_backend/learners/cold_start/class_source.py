"""Detectors of transformers with fixed classes: RT-DETR, D-FINE, DETR, YOLOS and their relatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.learners.cold_start.hub import Hub
from ml_backend.learners.cold_start.settings import ColdStart
from ml_backend.learners.cold_start.source import Hits, Projection, array
from ml_backend.learners.embedding import EMBEDDING_DIM

__all__ = ["ClassSource"]

_LEAST_SCORE = 0.01


class ClassSource:
    """See ``Source``. The features of a box are those of its query in the last layer of the decoder."""

    words = False
    gives_masks = False
    embedding_dim = EMBEDDING_DIM

    def __init__(self, hub: Hub, settings: ColdStart) -> None:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self._processor = hub.load(AutoImageProcessor)
        self._model = hub.load(AutoModelForObjectDetection)
        names = self._model.config.id2label
        self.classes = tuple(str(names[i]) for i in sorted(names))
        self._rows = {number: row for row, number in enumerate(sorted(names))}
        self.said = f"{hub.name} ({self._model.config.model_type}, {len(self.classes)} classes)"
        self.nbytes = sum(tensor.nbytes for tensor in self._model.state_dict().values())
        self._project = Projection()
        self._device = torch.device("cpu")

    def find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Hits]:
        """See ``Source``."""
        return [self._find(image) for image in images]

    def _find(self, image: npt.NDArray[np.uint8]) -> Hits:
        hw = (image.shape[0], image.shape[1])
        given = self._processor(images=image, return_tensors="pt").to(self._device)
        said = self._model(**given)
        result = self._processor.post_process_object_detection(
            said, threshold=_LEAST_SCORE, target_sizes=[hw]
        )[0]
        known = torch.tensor([int(i) in self._rows for i in result["labels"].tolist()], dtype=torch.bool)
        box = result["boxes"][known]
        every = said.last_hidden_state[0, -said.pred_boxes.shape[1] :]
        return Hits(
            box=array(box).reshape(-1, 4),
            kind=np.array([self._rows[int(i)] for i in result["labels"][known].tolist()], np.int64),
            score=array(result["scores"][known]),
            embedding=self._project(every[self._query(said.pred_boxes[0], box, hw)]),
        )

    def move(self, device: torch.device) -> None:
        """See ``Source``."""
        self._device = device
        self._model.to(device)

    @staticmethod
    def _query(every: Tensor, box: Tensor, hw: tuple[int, int]) -> Tensor:
        """(n,) query of each box: the families choose in different ways, and none says which it took."""
        centre, size = every[:, :2], every[:, 2:]
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=1)
        corners = corners * corners.new_tensor([hw[1], hw[0]] * 2)
        return torch.cdist(box, corners, p=1).argmin(dim=1) if len(box) else box.new_zeros(0).long()
