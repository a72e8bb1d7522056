"""Frozen features of pictures: which model gives them and how it is built again.

Each is a torch module from pixels (n, 3, side, side) in 0..1 to (n, dim). ``mean`` and ``std`` per channel
are taken off beforehand; None: each picture by its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

from ml_backend.errors import BadInput, ModelError
from ml_backend.extras import require_extra
from ml_backend.learners.classes.feature_model import Channels, FeatureModel
from ml_backend.learners.classes.patches import PatchFeatures

__all__ = ["LocalFeatures", "MobileNetFeatures", "build_features", "read_local_features"]

IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class MobileNetFeatures(FeatureModel):
    """MobileNetV3-small without its classifier: 576 features."""

    dim, side = 576, 224

    def __init__(self, *, published: bool) -> None:
        super().__init__()
        self.published = published
        self.mean = IMAGENET[0] if published else None
        self.std = IMAGENET[1] if published else None
        self.features = mobilenet_v3_small(weights=None).features

    def description(self) -> dict[str, Any]:
        """What ``build_features`` needs."""
        return {"kind": "mobilenet", "published": self.published}

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Weights of torchvision's whole network, or of ours. Raises ModelError when they do not fit."""
        mine = {
            name.removeprefix("features."): v for name, v in state.items() if name.startswith("features.")
        }
        try:
            self.features.load_state_dict(mine)
        except RuntimeError as error:
            raise ModelError("these are not weights of MobileNetV3-small", field="options.weights") from error

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.features(pixels).mean(dim=(2, 3))
        return found


class LocalFeatures(FeatureModel):
    """A vision model of transformers (DINOv2, DINOv3, SigLIP, ViT, ConvNeXt, …), built from its config.

    The feature is the pooled output where the model has one (the class token's, usually), else the mean over
    all tokens or places.
    """

    def __init__(self, config: Mapping[str, Any], side: int, mean: Channels, std: Channels) -> None:
        super().__init__()
        require_extra("hf")
        from transformers import AutoConfig, AutoModel

        self.config = dict(config)
        self.side = side
        self.mean = mean
        self.std = std
        try:
            kind = str(self.config["model_type"])
            rest = {name: value for name, value in self.config.items() if name != "model_type"}
            model = AutoModel.from_config(AutoConfig.for_model(kind, **rest), attn_implementation="eager")
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"transformers cannot build this model: {error}") from error
        self.model: nn.Module = getattr(model, "vision_model", model)  # of pairs of pictures and texts
        with torch.inference_mode():
            self.dim = int(self.eval()(torch.zeros(1, 3, side, side)).shape[1])

    def description(self) -> dict[str, Any]:
        """What ``build_features`` needs."""
        return {
            "kind": "local",
            "config": self.config,
            "side": self.side,
            "mean": list(self.mean or ()),
            "std": list(self.std or ()),
        }

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.model(pixel_values=pixels)
        pooled: Tensor | None = getattr(found, "pooler_output", None)
        if pooled is None:
            last: Tensor = found.last_hidden_state
            return last.mean(dim=1) if last.ndim == 3 else last.mean(dim=(2, 3))
        return pooled.flatten(1)


def build_features(description: Mapping[str, Any]) -> FeatureModel:
    """The module that was described, with weights still to be loaded. Raises ModelError."""
    try:
        kind = description["kind"]
        if kind == "patches":
            return PatchFeatures()
        if kind == "mobilenet":
            return MobileNetFeatures(published=bool(description["published"]))
        if kind == "local":
            return LocalFeatures(
                description["config"],
                int(description["side"]),
                _channels(description["mean"]),
                _channels(description["std"]),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the description of the features is damaged: {error!r}") from error
    raise ModelError(f"there are no features called {kind!r}", field="learner.json")


def read_local_features(folder: Path) -> LocalFeatures:
    """A vision model from a folder as transformers saves it: config.json and weights.

    Nothing is downloaded, and no code from the folder is run. Raises BadInput when there is no such model.
    """
    require_extra("hf")
    from transformers import AutoModel

    try:
        raw = json.loads((folder / "config.json").read_text())
        loaded = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(
            f"{folder} holds no model that transformers can load: {error}",
            field="options.features",
            hint="Give a folder with config.json and model.safetensors",
        ) from error
    side, mean, std = _preprocessing(folder, raw)
    features = LocalFeatures(
        loaded.config.to_dict() | {"model_type": loaded.config.model_type}, side, mean, std
    )
    inner: nn.Module = getattr(loaded, "vision_model", loaded)
    features.model.load_state_dict(inner.state_dict())
    return features


def _preprocessing(folder: Path, config: Mapping[str, Any]) -> tuple[int, Channels, Channels]:
    """Side in pixels, mean and spread of the channels; ImageNet's where the folder says nothing."""
    path = folder / "preprocessor_config.json"
    said: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    size = said.get("crop_size") or said.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    inner = config.get("vision_config") or config
    mean, std = said.get("image_mean") or IMAGENET[0], said.get("image_std") or IMAGENET[1]
    return int(side or inner.get("image_size") or 224), _channels(mean), _channels(std)


def _channels(values: Any) -> Channels:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
