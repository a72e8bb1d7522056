"""What is minimised, the focal loss of every pixel; and exact statistics for batch normalisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from ml_backend.learners.segmentation.network import SegmentationNetwork
from ml_backend.learners.segmentation.training_crops import Batch

__all__ = ["exact_statistics", "focal_loss"]


def focal_loss(logits: Tensor, batch: Batch, *, alpha: float, gamma: float) -> Tensor:
    """Mean focal loss (Lin et al. 2017) over the pixels and labels that count, by their weight.

    ``logits`` are logits: the loss applies the sigmoid itself.
    """
    loss: Tensor = sigmoid_focal_loss(logits.float(), batch.target, alpha=alpha, gamma=gamma)
    return (loss * batch.weight).sum() / batch.weight.sum().clamp(min=1.0)


def exact_statistics(
    model: SegmentationNetwork, pixels: Callable[[int], Tensor], *, batches: int, device: torch.device
) -> None:
    """Measure the means and variances of batch normalisation anew, with the final weights.

    ``pixels(step)`` gives the input of one of the ``batches``.

    MobileNetV3 moves its running statistics by 1 % per step: after a few hundred steps they still hold those
    of the first, random weights ("precise batch normalisation", Wu & Johnson 2021).
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    model.to(device).eval()  # without dropout, as in use
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
    with torch.no_grad():
        for step in range(batches):
            model(pixels(step).to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
