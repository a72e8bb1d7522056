"""The optimisation of a segmentation network: focal loss of every pixel, and exact batch statistics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from ml_backend.errors import ModelError
from ml_backend.learners.base import Progress
from ml_backend.learners.segmentation.network import SegmentationNetwork
from ml_backend.learners.segmentation.training_crops import Batch

__all__ = ["exact_statistics", "fit", "focal_loss"]


def focal_loss(logits: Tensor, batch: Batch, *, alpha: float, gamma: float) -> Tensor:
    """Mean focal loss (Lin et al. 2017) over the pixels and labels that count, by their weight.

    ``logits`` are logits: the loss applies the sigmoid itself.
    """
    loss: Tensor = sigmoid_focal_loss(logits.float(), batch.target, alpha=alpha, gamma=gamma)
    return (loss * batch.weight).sum() / batch.weight.sum().clamp(min=1.0)


def fit(
    model: SegmentationNetwork,
    next_batch: Callable[[int], Batch],
    *,
    iterations: int,
    lr: float,
    weight_decay: float,
    clip: float,
    alpha: float,
    gamma: float,
    bf16: bool,
    device: torch.device,
    progress: Progress,
) -> tuple[tuple[int, float], ...]:
    """Train in place; returns about twenty pairs (iteration, mean loss).

    Raises ModelError when the loss is not a finite number.
    """
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    warm = max(1, min(50, iterations // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, warm, iterations))
    history: list[tuple[int, float]] = []
    recent: list[float] = []
    started = time.monotonic()
    for step in range(1, iterations + 1):
        batch = next_batch(step - 1).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(batch.pixels)
        loss = focal_loss(logits, batch, alpha=alpha, gamma=gamma)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            raise ModelError(f"the loss became {recent[-1]} at iteration {step}", hint="Lower the option lr")
        if step % max(1, iterations // 20) == 0 or step == iterations:
            mean = sum(recent) / len(recent)
            history.append((step, round(mean, 5)))
            recent.clear()
            pace = step / (time.monotonic() - started)
            progress(step / iterations, f"iteration {step}/{iterations}, loss {mean:.4f}, {pace:.1f} it/s")
    return tuple(history)


def exact_statistics(
    model: SegmentationNetwork, next_batch: Callable[[int], Batch], *, batches: int, device: torch.device
) -> None:
    """Measure the means and variances of batch normalisation anew, with the final weights.

    MobileNetV3 moves its running statistics by 1 % per step: after a few hundred steps they still hold those
    of the first, random weights ("precise batch normalisation", Wu & Johnson 2021).
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
    model.to(device).train()
    with torch.no_grad():
        for step in range(batches):
            model(next_batch(step).pixels.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def _rate(step: int, warm: int, total: int) -> float:
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))
