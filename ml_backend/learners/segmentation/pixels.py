"""Pixels as the network wants them. Learner and export share these functions, so their inputs are the same.

TorchScript compiles them: no keyword that it does not know, no numpy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["normalise", "prepare"]


def normalise(image: Tensor, how: str, mean_std: tuple[float, float]) -> Tensor:
    """(3, h, w) float in 0..1 → network input. ``mean_std`` is that of the whole picture, for ``image``."""
    if how == "imagenet":
        mean = torch.tensor([0.485, 0.456, 0.406], device=image.device)[:, None, None]
        return (image - mean) / torch.tensor([0.229, 0.224, 0.225], device=image.device)[:, None, None]
    return (image - mean_std[0]) / max(mean_std[1], 0.02)


def prepare(image: Tensor, scale: float, max_side: int, how: str) -> Tensor:
    """(3, H, W) uint8 RGB → (3, h, w) float32 network input at ``scale``, smaller for large pictures."""
    height, width = image.shape[-2], image.shape[-1]
    factor = min(scale, max_side / max(height, width))
    # TorchScript rounds to a float
    size = [max(16, int(round(height * factor))), max(16, int(round(width * factor)))]  # noqa: RUF046
    pixels = image.to(torch.float32) / 255
    mean_std = (float(pixels.mean()), float(pixels.std()))
    scaled = functional.interpolate(
        pixels[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )
    return normalise(scaled[0], how, mean_std)
