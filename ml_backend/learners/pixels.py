"""Pixels as networks want them: training, prediction and exports share these functions, so inputs are alike.

TorchScript compiles ``normalise``, ``net_size`` and ``prepare``: no keyword that it does not know, no numpy.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["as_input", "mean_std_of", "net_size", "normalise", "prepare", "resized"]


def normalise(image: Tensor, how: str, mean_std: tuple[float, float] | None = None) -> Tensor:
    """(3, h, w) float in 0..1 → network input.

    ``how`` is ``imagenet`` (for published weights) or ``image``: by the picture's own ``mean_std``, because
    the brightness of microscope images varies widely. It must be given where ``image`` is a part.
    """
    if how == "imagenet":
        mean = torch.tensor([0.485, 0.456, 0.406], device=image.device)[:, None, None]
        return (image - mean) / torch.tensor([0.229, 0.224, 0.225], device=image.device)[:, None, None]
    if mean_std is None:
        mean_std = (float(image.mean()), float(image.std()))
    return (image - mean_std[0]) / max(mean_std[1], 0.02)


def net_size(height: int, width: int, scale: float, max_side: int) -> tuple[int, int]:
    """(height, width) of the network's input: the fitted scale, smaller for an image far larger than the
    training ones, to save memory."""
    factor = min(scale, max_side / max(height, width))
    # TorchScript rounds to a float
    return max(16, int(round(height * factor))), max(16, int(round(width * factor)))  # noqa: RUF046


def prepare(image: Tensor, scale: float, max_side: int, how: str) -> Tensor:
    """(3, H, W) uint8 RGB → (3, h, w) float32 network input, resized by torch: for what is exported."""
    height, width = net_size(image.shape[-2], image.shape[-1], scale, max_side)
    pixels = image.to(torch.float32) / 255
    mean_std = (float(pixels.mean()), float(pixels.std()))
    scaled = functional.interpolate(
        pixels[None], size=[height, width], mode="bilinear", align_corners=False, antialias=True
    )
    return normalise(scaled[0], how, mean_std)


def as_input(image: npt.NDArray[np.uint8], net_hw: tuple[int, int], how: str, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 RGB → (3, h, w) float32 network input of size ``net_hw``, resized by OpenCV: faster
    than ``prepare``, and what the crops of a training are."""
    mean_std = mean_std_of(image) if how == "image" else None
    tensor = torch.from_numpy(np.array(resized(image, net_hw), order="C")).to(device)
    return normalise(tensor.permute(2, 0, 1).float() / 255, how, mean_std)


def mean_std_of(image: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of all values of a picture, in 0..1."""
    mean, std = cv2.meanStdDev(image.reshape(-1, 1))
    return float(mean[0, 0]) / 255, float(std[0, 0]) / 255


def resized(pixels: npt.NDArray[np.uint8], hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Pixels at another (height, width), averaged where they shrink."""
    if pixels.shape[:2] == hw:
        return pixels
    how = cv2.INTER_AREA if hw[1] < pixels.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (hw[1], hw[0]), interpolation=how), np.uint8)
