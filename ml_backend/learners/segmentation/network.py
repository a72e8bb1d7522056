"""DeepLabV3 on MobileNetV3-large (torchvision) with one sigmoid channel per label, and its description."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from ml_backend.errors import ModelError

__all__ = [
    "HEAD_CHANNELS",
    "NetworkConfig",
    "SegmentationNetwork",
    "build_network",
    "copy_weights",
    "start_rare",
]

HEAD_CHANNELS = 256
"""Features per place after the pyramid of atrous convolutions."""
_DETAIL_LAYER, _DETAIL_CHANNELS = "3", 24
_REDUCED, _FINE = 64, 32
_LAST = "last."


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """All that is needed to build the network again and to read its output; stored as ``learner.json``.

    ``normalise``: ``image`` (each image by its own mean and standard deviation) or ``imagenet`` (for
    published weights). ``scale``: network pixels per image pixel; ``max_side``: longest side of the network's
    input. Per label: ``calibration`` (slope, shift) turns logits into calibrated ones, ``threshold`` is the
    probability above which a pixel belongs to the label. ``quality`` (slope, shift) turns the logit of the
    expected IoU into that of the predicted one.
    """

    labels: tuple[str, ...]
    decoder: str
    normalise: str
    scale: float
    max_side: int
    unit: str
    min_area: int
    threshold: tuple[float, ...]
    calibration: tuple[tuple[float, float], ...]
    quality: tuple[float, float] = (1.0, 0.0)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NetworkConfig:
        """Raises ModelError where a field is missing or of another kind."""
        try:
            found = cls(
                tuple(str(v) for v in value["labels"]),
                str(value["decoder"]),
                str(value["normalise"]),
                float(value["scale"]),
                int(value["max_side"]),
                str(value["unit"]),
                int(value["min_area"]),
                tuple(float(v) for v in value["threshold"]),
                tuple((float(a), float(b)) for a, b in value["calibration"]),
                (float(value["quality"][0]), float(value["quality"][1])),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelError(
                f"the description of the model is damaged: {error!r}", field="learner.json"
            ) from error
        if len(found.threshold) != len(found.labels) or len(found.calibration) != len(found.labels):
            raise ModelError("thresholds and labels differ in number", field="learner.json")
        return found


class _Refine(nn.Module):
    """Features at a quarter of the input's resolution, from coarse ones and early, fine ones.

    As in DeepLabV3+ (Chen et al., ECCV 2018), with fewer channels: outlines are sharper than at a sixteenth.
    """

    channels = _REDUCED

    def __init__(self) -> None:
        super().__init__()
        self.reduce = _conv(HEAD_CHANNELS, _REDUCED, 1)
        self.fine = _conv(_DETAIL_CHANNELS, _FINE, 1)
        self.mix = _conv(_REDUCED + _FINE, _REDUCED, 3)

    def forward(self, coarse: Tensor, detail: Tensor) -> Tensor:
        size = [detail.shape[-2], detail.shape[-1]]
        up = functional.interpolate(self.reduce(coarse), size=size, mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(torch.cat([up, self.fine(detail)], dim=1))
        return mixed


class _Plain(nn.Module):
    """The coarse features as they are: DeepLabV3."""

    channels = HEAD_CHANNELS

    def forward(self, coarse: Tensor, detail: Tensor) -> Tensor:
        return coarse


class SegmentationNetwork(nn.Module):
    """(b, 3, h, w) normalised floats → logits (b, labels, h, w); weights are named as in torchvision."""

    def __init__(self, labels: int, decoder: str) -> None:
        super().__init__()
        base = deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=labels, aux_loss=False
        )
        self.backbone = base.backbone
        self.backbone.return_layers = {**self.backbone.return_layers, _DETAIL_LAYER: "detail"}
        self.classifier = nn.Sequential(*list(base.classifier)[:4])
        refine = _Refine() if decoder == "skip" else _Plain()
        self.refine = refine
        self.last = nn.Conv2d(refine.channels, labels, 1)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse features (b, 256, h / 16, w / 16), and logits at the decoder's own resolution."""
        found = self.backbone(pixels)
        coarse: Tensor = self.classifier(found["out"])
        logits: Tensor = self.last(self.refine(coarse, found["detail"]))
        return coarse, logits

    def forward(self, pixels: Tensor) -> Tensor:
        _, logits = self.encode(pixels)
        size = [pixels.shape[-2], pixels.shape[-1]]
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def build_network(config: NetworkConfig) -> SegmentationNetwork:
    """The network with random weights. Raises ModelError for an unknown decoder."""
    if config.decoder not in ("skip", "plain"):
        raise ModelError(f"no decoder is called {config.decoder!r}", field="learner.json")
    return SegmentationNetwork(len(config.labels), config.decoder)


def copy_weights(
    model: SegmentationNetwork,
    state: Mapping[str, Tensor],
    *,
    old_labels: Sequence[str] = (),
    new_labels: Sequence[str] = (),
) -> int:
    """Copy what fits by name and shape; returns how many tensors were copied.

    Rows of the last layer go by the names of the labels; without ``old_labels`` it is left as it is. A bare
    MobileNetV3-large (``features.…``) goes into the backbone.
    """
    own = model.state_dict()
    rows = [(old_labels.index(label), new) for new, label in enumerate(new_labels) if label in old_labels]
    copied = 0
    with torch.no_grad():
        for name, given in state.items():
            target = own.get(name.replace("features.", "backbone.", 1))
            if target is None:
                continue
            if name.startswith(_LAST):
                if target.shape[1:] == given.shape[1:] and len(given) == len(old_labels):
                    for old, new in rows:
                        target[new].copy_(given[old])
                    copied += bool(rows)
            elif target.shape == given.shape:
                target.copy_(given)
                copied += 1
    return copied


def start_rare(model: SegmentationNetwork, share: Sequence[float]) -> None:
    """Let each channel of the last layer start at the share of pixels its label has (Lin et al. 2017)."""
    bias = model.last.bias
    assert bias is not None
    with torch.no_grad():
        nn.init.normal_(model.last.weight, std=0.01)
        for place, value in enumerate(share):
            p = min(max(value, 0.01), 0.99)
            bias[place] = math.log(p / (1 - p))


def _conv(inside: int, outside: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, side, padding=side // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )
