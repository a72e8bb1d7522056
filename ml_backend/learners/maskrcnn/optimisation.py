"""The optimisation loop of Mask R-CNN."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ml_backend.errors import ModelError
from ml_backend.learners.base import Progress
from ml_backend.learners.maskrcnn.settings import TrainSettings
from ml_backend.learners.maskrcnn.training_crops import Crops, Sample

__all__ = ["fit", "native_bf16"]


def fit(
    model: nn.Module,
    crops: Crops,
    settings: TrainSettings,
    *,
    iterations: int,
    peak_lr: float,
    device: torch.device,
    progress: Progress,
) -> tuple[tuple[int, float], ...]:
    """Train in place; returns about twenty pairs (iteration, mean loss).

    AdamW with linear warm-up over a tenth of the run and cosine decay to zero. Raises ModelError when the
    loss is not a finite number.
    """
    model.to(device).train()
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=peak_lr,
    )
    warm = max(1, min(100, iterations // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, warm, iterations))
    half = settings.bf16 == "on" or (settings.bf16 == "auto" and native_bf16(device))
    history: list[tuple[int, float]] = []
    recent: list[float] = []
    started = time.monotonic()
    for step, samples in enumerate(_batches(crops, settings, iterations), start=1):
        images = [image.to(device, non_blocking=True) for image, _ in samples]
        targets = [{k: v.to(device, non_blocking=True) for k, v in target.items()} for _, target in samples]
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses: dict[str, Tensor] = model(images, targets)
            loss = torch.stack([value.float() for value in losses.values()]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            raise ModelError(
                f"the loss became {recent[-1]} at iteration {step}",
                hint="Lower the option lr, or set bf16 to off",
            )
        if step % max(1, iterations // 20) == 0 or step == iterations:
            mean = sum(recent) / len(recent)
            history.append((step, round(mean, 4)))
            recent.clear()
            pace = step / (time.monotonic() - started)
            progress(step / iterations, f"iteration {step}/{iterations}, loss {mean:.3f}, {pace:.1f} it/s")
    return tuple(history)


def native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the hardware rather than emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def _rate(step: int, warm: int, total: int) -> float:
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def _batches(crops: Crops, settings: TrainSettings, iterations: int) -> Iterator[list[Sample]]:
    if not settings.workers:
        for step in range(iterations):
            yield [crops[step * settings.batch + i] for i in range(settings.batch)]
        return
    dataset: Dataset[Sample] = crops  # type: ignore[assignment]
    yield from DataLoader(
        dataset,
        batch_size=settings.batch,
        num_workers=settings.workers,
        collate_fn=list,
        persistent_workers=False,
        pin_memory=torch.cuda.is_available(),
    )
