"""Masks for detectors that give boxes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ml_backend.instances import Rle
from ml_backend.learners.cold_start.hub import Hub
from ml_backend.learners.cold_start.source import array
from ml_backend.masks.rle import encode_mask
from ml_backend.masks.shapes import box_rle

__all__ = ["BoxMasks", "Masked", "box_masks"]

_MARGIN = 0.25
"""How much of a box's sides GrabCut sees around it, to learn what is outside."""
_LEAST_SHARE = 0.05
"""Less of a box than this cannot be its object."""

Masked = tuple[list[Rle], "npt.NDArray[np.float32] | None"]
"""A mask per box, and their predicted IoUs where they are known."""


class BoxMasks(Protocol):
    """Boxes to masks."""

    nbytes: int

    def __call__(self, image: npt.NDArray[np.uint8], box_xyxy: npt.NDArray[np.float32]) -> Masked:
        """Masks of boxes (n, 4) that lie in an image (H, W, 3)."""
        ...

    def move(self, device: torch.device) -> None:
        """Bring the weights to a device."""
        ...


def box_masks(how: str, wanted: str) -> BoxMasks:
    """``box``, ``grabcut``, or a SAM model by folder or hub name. Raises ModelError."""
    if how == "box":
        return _Filled()
    if how == "grabcut":
        return _GrabCut()
    return _Sam(Hub(how, wanted, "options.masks"))


class _Filled:
    nbytes = 0

    def __call__(self, image: npt.NDArray[np.uint8], box_xyxy: npt.NDArray[np.float32]) -> Masked:
        return [box_rle(box, (image.shape[0], image.shape[1])) for box in box_xyxy.tolist()], None

    def move(self, device: torch.device) -> None:
        """Nothing to move."""


class _GrabCut(_Filled):
    """Colours inside the box against those around it (Rother et al., SIGGRAPH 2004)."""

    def __call__(self, image: npt.NDArray[np.uint8], box_xyxy: npt.NDArray[np.float32]) -> Masked:
        return [self._cut(image, box) for box in box_xyxy], None

    @staticmethod
    def _cut(image: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> Rle:
        hw = (image.shape[0], image.shape[1])
        around = _MARGIN * (box[2:] - box[:2]) + 2
        low = np.maximum(np.floor(box[:2] - around), 0).astype(int)
        high = np.minimum(np.ceil(box[2:] + around), [hw[1], hw[0]]).astype(int)
        part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
        inner = np.round(box - np.tile(low, 2)).astype(int)
        inside = (slice(max(inner[1], 0), inner[3]), slice(max(inner[0], 0), inner[2]))
        state = np.full(part.shape[:2], cv2.GC_BGD, np.uint8)
        state[inside] = cv2.GC_PR_FGD
        found = np.zeros(hw, bool)
        if (state == cv2.GC_BGD).any() and (state == cv2.GC_PR_FGD).sum() > 8:
            cv2.setRNGSeed(0)  # it starts with random clusters: the same picture must give the same mask
            background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
            cv2.grabCut(part, state, None, background, foreground, 3, cv2.GC_INIT_WITH_MASK)
            cut = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))
            found[low[1] : high[1], low[0] : high[0]] = cut
        if found.sum() < _LEAST_SHARE * float(np.prod(box[2:] - box[:2])):
            return box_rle(box.tolist(), hw)
        return encode_mask(found)


class _Sam:
    """SAM or SAM 2 of transformers, asked with boxes; its own predicted IoU."""

    def __init__(self, hub: Hub) -> None:
        from transformers import AutoModelForMaskGeneration, AutoProcessor

        self._processor = hub.load(AutoProcessor)
        self._model = hub.load(AutoModelForMaskGeneration)
        self.nbytes = sum(tensor.nbytes for tensor in self._model.state_dict().values())
        self._device = torch.device("cpu")

    def move(self, device: torch.device) -> None:
        self._device = device
        self._model.to(device)

    def __call__(self, image: npt.NDArray[np.uint8], box_xyxy: npt.NDArray[np.float32]) -> Masked:
        if not len(box_xyxy):
            return [], np.zeros(0, np.float32)
        boxes = [[[float(v) for v in box] for box in box_xyxy]]
        given = self._processor(images=image, input_boxes=boxes, return_tensors="pt")
        sizes: Sequence[Any] = [given["original_sizes"]]
        if "reshaped_input_sizes" in given:  # SAM; SAM 2 squeezes every picture into a square
            sizes = [*sizes, given["reshaped_input_sizes"]]
        said = self._model(**given.to(self._device), multimask_output=False)
        masks = self._processor.post_process_masks(said.pred_masks.cpu(), *(s.cpu() for s in sizes))[0]
        return (
            [encode_mask(mask) for mask in masks[:, 0].bool().numpy()],
            array(said.iou_scores[0, :, 0]).clip(0, 1),
        )
