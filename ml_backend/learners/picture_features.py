"""Frozen features of pictures, for orders of tasks and for clusters: they need no training and no label.

``classical`` needs nothing: colour and brightness on a coarse grid, and how strong edges of each direction
and size are. They tell apart what differs at a glance (stain, magnification, background, crowding), which is
what a spread over pictures needs; they know nothing of objects. Foundation models do: give a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadInput
from ml_backend.extras import require_extra

__all__ = ["ClassicalFeatures", "PictureFeatures", "VisionModel", "picture_features"]

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_SIDE: Final = 128
_GRID: Final = 4
_DIRECTIONS: Final = 8
_LEVELS: Final = 3


class PictureFeatures(Protocol):
    """What gives a feature vector to each picture."""

    name: str
    """stands for the model and its version: features of different names are not compared"""

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """(n, f) float32 of n (H, W, 3) uint8 RGB images."""
        ...


class ClassicalFeatures:
    """Means and spreads of Lab colour on a 4×4 grid, and histograms of edge directions at three scales."""

    name = "classical-1"
    dim = _GRID * _GRID * 6 + _LEVELS * (_DIRECTIONS + 2)

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        rows = [_describe(image) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)


def picture_features(choice: str, *, device: str = "cpu", field: str = "features") -> PictureFeatures:
    """The features of that name: ``classical``, or a folder with a vision model that transformers loads.

    The model runs on ``device``. Raises BadInput, which names the setting ``field``, when there is no such
    model.
    """
    if choice in ("", "classical"):
        return ClassicalFeatures()
    if not (Path(choice) / "config.json").is_file():
        raise BadInput(
            f"there are no features called {choice!r}",
            field=field,
            hint="Use classical, or a folder with config.json and model.safetensors",
        )
    return VisionModel(Path(choice), device=device, field=field)


class VisionModel:
    """The pooled output of a vision model in a folder, as transformers saves it (DINOv2, SigLIP, ViT, …).

    Nothing is downloaded, and no code from the folder is run. It is loaded at the first picture; raises
    BadInput then when transformers cannot load it, ModelError when transformers is not installed.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", field: str = "features") -> None:
        self._device, self._field = device, field
        config = (folder / "config.json").read_bytes()
        self.name = f"{folder.name}-{hashlib.blake2b(config, digest_size=4).hexdigest()}"
        self._folder = folder
        said = json.loads(config)
        inner = said.get("vision_config") or said
        self._side = int(inner.get("image_size") or 224)
        self._model: Any = None

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        import torch

        rows = [
            cv2.resize(image, (self._side, self._side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
            for image in images
        ]
        pixels = (np.stack(rows) - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        with torch.inference_mode():
            inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(self._device)
            found = self._loaded()(pixel_values=inputs)
            pooled = getattr(found, "pooler_output", None)
            if pooled is None:
                last = found.last_hidden_state
                pooled = last.mean(dim=1) if last.ndim == 3 else last.mean(dim=(2, 3))
            return np.asarray(pooled.flatten(1).float().cpu().numpy(), np.float32)

    def _loaded(self) -> Any:
        if self._model is None:
            require_extra("hf")
            from transformers import AutoModel

            try:
                whole = AutoModel.from_pretrained(
                    self._folder, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise BadInput(
                    f"{self._folder} holds no model that transformers can load: {error}", field=self._field
                ) from error
            self._model = (
                getattr(whole, "vision_model", whole).eval().to(self._device)
            )  # of pairs of pictures and texts
        return self._model


def _describe(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32) / 255.0
    cells = lab.reshape(_GRID, _SIDE // _GRID, _GRID, _SIDE // _GRID, 3)
    parts = [cells.mean(axis=(1, 3)).ravel(), cells.std(axis=(1, 3)).ravel()]
    grey = lab[..., 0]
    for _ in range(_LEVELS):
        dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
        strength, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
        number = np.minimum((angle / np.pi * _DIRECTIONS).astype(np.int64), _DIRECTIONS - 1)
        histogram = np.bincount(number.ravel(), strength.ravel(), minlength=_DIRECTIONS) / strength.size
        parts += [histogram, np.array([strength.mean(), strength.std()])]
        grey = cv2.pyrDown(grey)
    return np.asarray(np.concatenate(parts), np.float32)
