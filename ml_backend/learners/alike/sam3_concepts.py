"""All objects of a concept on a picture, by SAM 3 (transformers): the concept is a name, or one of them.

Concept prompts: Carion et al., SAM 3: Segment Anything with Concepts, 2025. A box is of an object on the same
picture; it may stand beside the name or in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.learners.cold_start.hub import Hub
from ml_backend.learners.cold_start.source import array
from ml_backend.masks.rle import encode_mask, rle_area

__all__ = ["Concept", "Sam3Concepts"]

_LEAST_SCORE: Final = 0.3
_NO_NAME: Final = "visual"
"""What SAM 3 was trained to read where only a box says what is meant."""


@dataclass(frozen=True, slots=True)
class Concept:
    """What to look for: ``name`` in words (may be empty), ``box`` of one of them, xyxy in pixels."""

    name: str
    box: tuple[float, float, float, float] | None = None


class Sam3Concepts:
    """SAM 3 from a folder as ``save_pretrained`` writes it. Nothing is downloaded.

    Raises BadInput when there is no such folder, ModelError when it holds another model.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", least_score: float = _LEAST_SCORE) -> None:
        if not (folder / "config.json").is_file():
            raise BadInput(
                f"there is no model in {folder}",
                field="concepts",
                hint="Name a folder with SAM 3 as transformers saves it (config.json, model.safetensors)",
            )
        hub = Hub(str(folder), "cached", "concepts")
        from transformers import Sam3Model, Sam3Processor

        self._processor = hub.load(Sam3Processor)
        self._model = hub.load(Sam3Model)
        self._device, self._least = torch.device(device), least_score
        self._model.to(self._device)

    @torch.inference_mode()
    def __call__(
        self, image: npt.NDArray[np.uint8], concepts: list[Concept]
    ) -> list[tuple[list[Rle], npt.NDArray[np.float32]]]:
        """Masks at the size of an (H, W, 3) uint8 RGB picture, and their scores in 0..1, of each concept.

        The picture is encoded once for all concepts. A concept with neither name nor box has no masks.
        """
        hw = (image.shape[0], image.shape[1])
        pixels = self._processor(images=image, return_tensors="pt").to(self._device)["pixel_values"]
        seen = self._model.get_vision_features(pixel_values=pixels)
        found: list[tuple[list[Rle], npt.NDArray[np.float32]]] = []
        for concept in concepts:
            if not concept.name and concept.box is None:
                found.append(([], np.zeros(0, np.float32)))
                continue
            given = self._processor(text=concept.name or _NO_NAME, return_tensors="pt")
            if concept.box is not None:
                boxes = self._processor(
                    original_sizes=[list(hw)],
                    input_boxes=[[[float(edge) for edge in concept.box]]],
                    input_boxes_labels=[[1]],
                    return_tensors="pt",
                )
                given["input_boxes"] = boxes["input_boxes"]
                given["input_boxes_labels"] = boxes["input_boxes_labels"]
            said = self._model(vision_embeds=seen, **given.to(self._device))
            one = self._processor.post_process_instance_segmentation(
                said, threshold=self._least, target_sizes=[hw]
            )[0]
            rles = [encode_mask(mask) for mask in one["masks"].bool().cpu().numpy()]
            kept = [i for i, rle in enumerate(rles) if rle_area(rle)]
            found.append(([rles[i] for i in kept], array(one["scores"]).reshape(-1)[kept].clip(0, 1)))
        return found
