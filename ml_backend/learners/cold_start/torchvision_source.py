"""A detector of torchvision with published weights, or with those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import Tensor
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.ops import roi_align

from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.cold_start.settings import TORCHVISION, ColdStart
from ml_backend.learners.cold_start.source import Hits, Projection, array
from ml_backend.learners.embedding import EMBEDDING_DIM
from ml_backend.learners.weights import whole_model_weights
from ml_backend.masks.rle import encode_mask

__all__ = ["TorchvisionSource"]


class TorchvisionSource:
    """See ``Source``. Features of a box are pooled from the first level of the backbone; a Mask R-CNN also
    gives masks."""

    words = False
    embedding_dim = EMBEDDING_DIM

    def __init__(self, settings: ColdStart) -> None:
        name = settings.detector.removeprefix(TORCHVISION)
        known = list_models(module=torchvision.models.detection, exclude=["keypoint*"])
        if name not in known:
            raise BadInput(
                f"torchvision has no detector {name!r}",
                field="options.detector",
                hint=f"It has {', '.join(known)}",
            )
        choice = get_model_weights(name).DEFAULT
        of_a_file = settings.weights not in ("auto", "cached")
        if settings.classes and not of_a_file:
            raise BadInput("published weights have classes of their own", field="options.classes")
        # row 0 is the background
        self._named = ("", *settings.classes) if settings.classes else tuple(choice.meta["categories"])
        state = whole_model_weights(choice, name, wanted=settings.weights)
        options: dict[str, Any] = {"weights_backbone": None, "num_classes": len(self._named)}
        self._model = get_model(name, weights=None, **options).eval()
        try:
            self._model.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"the weights do not fit {name} with {len(self._named) - 1} classes",
                field="options.weights",
                hint="Name its classes in the option classes",
            ) from error
        whose = f"the weights of {Path(settings.weights).name}" if of_a_file else "weights trained on COCO"
        self.said = f"torchvision's {name} with {whose}"
        self.classes = tuple(dict.fromkeys(self._named[1:]))  # COCO's list holds N/A several times
        self._kinds = np.array([-1, *(self.classes.index(c) for c in self._named[1:])], np.int64)
        self.nbytes = sum(tensor.nbytes for tensor in self._model.state_dict().values())
        self.gives_masks = name.startswith("maskrcnn")
        self._project = Projection()
        self._device = torch.device("cpu")
        self._level: Tensor | None = None
        self._model.backbone.register_forward_hook(self._keep)

    def find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Hits]:
        """See ``Source``."""
        return [self._find(image) for image in images]

    def _find(self, image: npt.NDArray[np.uint8]) -> Hits:
        tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self._device).permute(2, 0, 1) / 255
        result: dict[str, Tensor] = self._model([tensor])[0]
        kind = self._kinds[result["labels"].cpu().numpy()]
        real = kind >= 0
        kept = torch.from_numpy(np.flatnonzero(real)).to(self._device)
        box = result["boxes"][kept]
        masks = (result["masks"][kept, 0] > 0.5).cpu().numpy() if "masks" in result else None
        return Hits(
            box=array(box),
            kind=kind[real],
            score=array(result["scores"][kept]),
            embedding=self._project(self._pooled(box, tensor)),
            rle=None if masks is None else [encode_mask(mask) for mask in masks],
        )

    def move(self, device: torch.device) -> None:
        """See ``Source``."""
        self._device = device
        self._model.to(device)

    def _keep(self, module: torch.nn.Module, given: object, features: dict[str, Tensor]) -> None:
        self._level = next(iter(features.values()))

    def _pooled(self, box: Tensor, image: Tensor) -> Tensor:
        """(n, c · 49) features of the boxes, divided by 7: lengths are those of one cell's vector."""
        assert self._level is not None
        batch, _ = self._model.transform([image])
        net_h, net_w = batch.image_sizes[0]
        grow = box.new_tensor([net_w / image.shape[-1], net_h / image.shape[-2]] * 2)
        scale = self._level.shape[-1] / batch.tensors.shape[-1]
        pooled: Tensor = roi_align(
            self._level, [box * grow], 7, spatial_scale=scale, sampling_ratio=2, aligned=True
        )
        self._level = None
        return pooled.flatten(1) / 7
