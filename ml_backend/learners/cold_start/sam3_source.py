"""SAM 3 (transformers): all objects that a few words name, with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.instances import Rle
from ml_backend.learners.cold_start.hub import Hub
from ml_backend.learners.cold_start.settings import ColdStart
from ml_backend.learners.cold_start.source import Hits, Projection, array
from ml_backend.learners.cold_start.word_sources import prompts_of
from ml_backend.learners.embedding import EMBEDDING_DIM
from ml_backend.masks.rle import encode_mask

__all__ = ["Sam3Source"]


class Sam3Source:
    """See ``Source``. One pass per name over the features of a picture, which are computed once.

    The features of an object are those of the picture, averaged over its mask.
    """

    words = True
    gives_masks = True
    embedding_dim = EMBEDDING_DIM

    def __init__(self, hub: Hub, settings: ColdStart, labels: Sequence[str]) -> None:
        from transformers import Sam3Model, Sam3Processor

        self.classes = tuple(labels)
        self._prompts = prompts_of(settings, labels)
        self._processor = hub.load(Sam3Processor)
        self._model = hub.load(Sam3Model)
        names = ", ".join(name for name, _ in self._prompts)
        self.said = f"{hub.name} (sam3), looking for: {names}"
        self.nbytes = sum(tensor.nbytes for tensor in self._model.state_dict().values())
        self._threshold = settings.score_threshold
        self._project = Projection()
        self._device = torch.device("cpu")
        self._words: list[Any] = []

    def find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Hits]:
        """See ``Source``."""
        return [self._find(image) for image in images]

    def move(self, device: torch.device) -> None:
        """See ``Source``."""
        self._device = device
        self._model.to(device)
        self._words = [
            self._processor(text=name, return_tensors="pt").to(device) for name, _ in self._prompts
        ]

    def _find(self, image: npt.NDArray[np.uint8]) -> Hits:
        hw = (image.shape[0], image.shape[1])
        pixels = self._processor(images=image, return_tensors="pt").to(self._device)["pixel_values"]
        seen = self._model.get_vision_features(pixel_values=pixels)
        level = seen.fpn_hidden_states[-2][0].float()
        boxes, kinds, scores, features = [], [], [], []
        rles: list[Rle] = []
        for (_, label), words in zip(self._prompts, self._words, strict=True):
            said = self._model(
                vision_embeds=seen, input_ids=words["input_ids"], attention_mask=words["attention_mask"]
            )
            one = self._processor.post_process_instance_segmentation(
                said, threshold=self._threshold, target_sizes=[hw]
            )[0]
            boxes.append(array(one["boxes"]).reshape(-1, 4))
            scores.append(array(one["scores"]))
            kinds.append(np.full(len(one["scores"]), label, np.int64))
            features.append(_averages(level, one["masks"]))
            rles += [encode_mask(mask) for mask in one["masks"].bool().cpu().numpy()]
        return Hits(
            box=np.concatenate(boxes),
            kind=np.concatenate(kinds),
            score=np.concatenate(scores),
            embedding=self._project(torch.cat(features)),
            rle=rles,
        )


def _averages(level: Tensor, masks: Tensor) -> Tensor:
    """(n, c) means of features (c, h, w) over masks (n, H, W)."""
    if not len(masks):
        return level.new_zeros((0, level.shape[0]))
    size = (int(level.shape[-2]), int(level.shape[-1]))
    small = functional.adaptive_avg_pool2d(masks[:, None].float(), size)[:, 0]
    weight = small.flatten(1) / small.flatten(1).sum(dim=1, keepdim=True).clamp(min=1e-6)
    found: Tensor = weight @ level.flatten(1).T
    return found
