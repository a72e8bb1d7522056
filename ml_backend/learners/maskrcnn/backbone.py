"""Backbones with a feature pyramid of strides 4, 8, 16, 32.

``small`` is made to be trained from random weights in minutes on a CPU: BasicBlocks of torchvision with
trainable normalisation. ``mobilenet_v3_large`` and ``resnet50`` are torchvision's, for published weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FeaturePyramidNetwork

__all__ = ["MobileNetPyramid", "SmallPyramid", "group_norm"]


def group_norm(channels: int) -> nn.Module:
    """Group normalisation: the same in training and use, whatever the batch and however mixed the images."""
    return nn.GroupNorm(min(8, channels // 4), channels)


class SmallPyramid(nn.Module):
    """Small residual network (widths per stage, two blocks each) with a feature pyramid on top.

    Input (n, 3, h, w); output levels "0".."3" of ``out_channels`` at strides 4, 8, 16, 32.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int] = (32, 64, 128, 192),
        out_channels: int = 64,
        norm: Callable[[int], nn.Module] = group_norm,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        first = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first // 2, 3, stride=2, padding=1, bias=False),
            norm(first // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(first // 2, first, 3, stride=2, padding=1, bias=False),
            norm(first),
            nn.ReLU(inplace=True),
        )
        stages = []
        before = first
        for i, width in enumerate(widths):
            stages.append(_stage(before, width, 1 if i == 0 else 2, norm))
            before = width
        self.stages = nn.ModuleList(stages)
        self.fpn = FeaturePyramidNetwork(list(widths), out_channels, norm_layer=norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        features: dict[str, Tensor] = OrderedDict()
        for i, stage in enumerate(self.stages):
            x = stage(x)
            features[str(i)] = x
        pyramid: dict[str, Tensor] = self.fpn(features)
        return pyramid


class MobileNetPyramid(nn.Module):
    """MobileNetV3-large tapped at strides 4, 8, 16, 32 under a feature pyramid (torchvision's own detector
    taps strides 16 and 32 only, too coarse for small objects)."""

    def __init__(self, *, out_channels: int = 64, weights: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.taps = [3, 6, 12, 16]
        network = mobilenet_v3_large(weights=None)
        if weights is not None:
            network.load_state_dict(weights)
        self.features = network.features
        with torch.no_grad():
            self.features.eval()
            x = torch.zeros(1, 3, 64, 64)
            widths = []
            for i, layer in enumerate(self.features):
                x = layer(x)
                if i in self.taps:
                    widths.append(x.shape[1])
        self.features.train()
        self.fpn = FeaturePyramidNetwork(widths, out_channels, norm_layer=group_norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features: dict[str, Tensor] = OrderedDict()
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                features[str(len(features))] = x
        pyramid: dict[str, Tensor] = self.fpn(features)
        return pyramid


def _stage(before: int, width: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    shortcut = None
    if stride != 1 or before != width:
        shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), norm(width))
    return nn.Sequential(
        BasicBlock(before, width, stride=stride, downsample=shortcut, norm_layer=norm),
        BasicBlock(width, width, norm_layer=norm),
    )
