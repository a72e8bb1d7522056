"""Load weights: published ones if they are available, and our own files."""

from __future__ import annotations

import pickle
import socket
import urllib.error
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import MobileNet_V3_Large_Weights, MobileNet_V3_Small_Weights, WeightsEnum
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_V2_Weights,
)
from torchvision.models.segmentation import DeepLabV3_MobileNet_V3_Large_Weights

from ml_backend.errors import ModelError

__all__ = [
    "cached_weights",
    "published_weights",
    "read_weights",
    "save_weights",
    "taken_or_refused",
    "whole_model_weights",
]

_PUBLISHED = {
    "resnet50": (MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1, "Mask R-CNN ResNet-50 FPN v2 trained on COCO"),
    "fasterrcnn_resnet50": (
        FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
        "Faster R-CNN ResNet-50 FPN v2 trained on COCO",
    ),
    "mobilenet_v3_small": (MobileNet_V3_Small_Weights.IMAGENET1K_V1, "MobileNetV3-small trained on ImageNet"),
    "mobilenet_v3_large": (MobileNet_V3_Large_Weights.IMAGENET1K_V2, "MobileNetV3-large trained on ImageNet"),
    "deeplabv3_mobilenet_v3_large": (
        DeepLabV3_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1,
        "DeepLabV3 MobileNetV3-large trained on COCO with the labels of VOC",
    ),
}
_DOWNLOAD_TIMEOUT_S = 15.0


def published_weights(backbone: str, *, wanted: str) -> tuple[dict[str, Tensor] | None, str]:
    """The published weights of a backbone, or None, and a sentence that says which.

    ``wanted`` is ``auto`` (the local torch hub cache, else a download), ``cached`` (no download), ``none``
    or the path of a file (.pth, .safetensors). A path that cannot be read raises ModelError. All else gives
    None: training without published weights is slower, but not wrong.
    """
    if wanted == "none":
        return None, "random weights (published ones were not wanted)"
    if wanted not in ("auto", "cached"):
        return read_weights(Path(wanted)), f"weights of {Path(wanted).name}"
    if backbone not in _PUBLISHED:
        return None, f"random weights (there are no published ones for backbone {backbone!r})"
    choice, name = _PUBLISHED[backbone]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(choice.url).path).name
    if cached.is_file():
        return read_weights(cached), f"published weights: {name} (cached)"
    if wanted == "cached":
        return None, f"random weights (no {cached.name} in {cached.parent})"
    try:
        with _time_limit(_DOWNLOAD_TIMEOUT_S):
            state: dict[str, Tensor] = choice.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, TimeoutError, OSError, RuntimeError) as error:
        return None, f"random weights (the published ones could not be had: {error})"
    return state, f"published weights: {name} (downloaded)"


def cached_weights() -> tuple[str, ...]:
    """Names of the published weights that lie in the local torch hub cache."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return tuple(
        name
        for choice, name in _PUBLISHED.values()
        if (folder / Path(urlparse(choice.url).path).name).is_file()
    )


def whole_model_weights(choice: WeightsEnum, name: str, *, wanted: str) -> dict[str, Tensor]:
    """The published weights of a whole model, which is of no use without them.

    ``wanted`` is ``auto`` (the local torch hub cache, else a download), ``cached`` (no download) or the path
    of a file. Raises ModelError when they cannot be had.
    """
    if wanted not in ("auto", "cached"):
        return read_weights(Path(wanted))
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(choice.url).path).name
    if cached.is_file():
        return read_weights(cached)
    if wanted == "cached":
        raise ModelError(
            f"there is no {cached.name} in {cached.parent}",
            field="options.weights",
            hint="Set it to auto where it may be downloaded, or to the path of a file",
        )
    try:
        with _time_limit(_DOWNLOAD_TIMEOUT_S):
            state: dict[str, Tensor] = choice.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, TimeoutError, OSError, RuntimeError) as error:
        raise ModelError(
            f"the weights of {name} could not be downloaded: {error}",
            field="options.weights",
            hint="Set it to the path of a file",
        ) from error
    return state


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a .safetensors or .pth file; runs no code from the file. Raises ModelError."""
    try:
        if path.suffix == ".safetensors":
            found: dict[str, Tensor] = load_file(str(path))
            return found
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"no weights at {path}") from error
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"{path.name} cannot be read as weights: {error}") from error
    except (
        Exception
    ) as error:  # safetensors raises a class of its own that it does not export in a stable place
        raise ModelError(f"{path.name} cannot be read as weights: {error}") from error
    for name in ("model", "state_dict"):  # how training programs wrap it
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(f"{path.name} holds no state dict")
    return dict(loaded)


def taken_or_refused(
    own: Collection[str], taken: Collection[str], given: Collection[str], source: str, *, part: str
) -> str:
    """Words about the tensors ``own`` of a network that are not among those ``taken`` from ``given``; empty
    where all are. Raises ModelError, naming tensors, when ``part`` (a prefix) is not taken as a whole."""
    left = [name for name in own if name not in taken and not name.endswith("num_batches_tracked")]
    missing = [name for name in left if name.startswith(part)]
    if missing:
        absent = sum(name not in given for name in missing)
        raise ModelError(
            f"{source}: {len(missing)} of the tensors of {part.rstrip('.')} do not fit ({absent} are absent, "
            f"{len(missing) - absent} of another shape), first {', '.join(missing[:3])}; "
            f"the file has {', '.join(list(given)[:3])}, …",
            field="options.weights",
            hint="Use a checkpoint of the same backbone and width, or weights=none",
        )
    if not left:
        return ""
    return f" ({len(left)} tensors start anew: {', '.join(left[:3])}{', …' if len(left) > 3 else ''})"


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, str(path))


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Set the default timeout of all sockets while torch.hub downloads; torch.hub has no timeout option."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
