"""What the hyper-parameters of Mask R-CNN and of the box learners have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ml_backend.errors import BadInput
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.training.settings import LoopSettings

__all__ = ["FULL", "POSITIVE", "DetectionSettings", "check_multiples", "loop_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSettings:
    """One run. Sizes are network pixels (after scaling).

    Attributes
    ----------
    backbone : ``small``, ``mobilenet_v3_large``, ``resnet50``
    channels : width of the feature pyramid and heads (all but ``resnet50``)
    iterations, continue_iterations : optimiser steps from scratch, and from an earlier version
    batch : crops per step
    size : side of a training crop
    target_px : size that the median object is scaled to
    max_side : longest side an image is scaled to by the fitted scale
    lr, continue_lr : peak learning rates (AdamW, linear warm-up, cosine to zero)
    weight_decay, clip : regularisation, largest gradient norm
    max_detections : per image; 0 = fitted to the training images
    score_threshold : detections below are dropped
    nms : box overlap above which the weaker of two detections is dropped
    weights : ``auto``, ``cached``, ``none`` or a path, see ``published_weights``
    turn : how crops may be turned
    threads : torch threads, 0 = torch's choice
    workers : processes that prepare crops, 0 = none
    bf16 : ``auto`` (where the device computes in bfloat16 natively), ``on``, ``off``
    """

    backbone: str = "small"
    channels: int = 64
    iterations: int = 600
    continue_iterations: int = 250
    batch: int = 4
    size: int = 256
    target_px: float = 28.0
    max_side: int = 640
    lr: float = 1.5e-3
    continue_lr: float = 7e-4
    weight_decay: float = 0.02
    clip: float = 5.0
    max_detections: int = 0
    score_threshold: float = 0.05
    nms: float = 0.5
    weights: str = "auto"
    turn: str = "auto"
    threads: int = 0
    workers: int = 0
    bf16: str = "auto"


FULL: Final[Mapping[str, Any]] = {
    "backbone": "resnet50",
    "channels": 256,
    "iterations": 4000,
    "continue_iterations": 1500,
    "batch": 8,
    "size": 640,
    "target_px": 48.0,
    "max_side": 1333,
    "lr": 2e-4,
    "continue_lr": 1e-4,
    "workers": 8,
}
"""The preset for GPUs."""
POSITIVE = ("iterations", "continue_iterations", "batch", "size", "target_px", "max_side", "channels")
"""Numbers that must be more than 0."""


def check_multiples(settings: DetectionSettings) -> None:
    """Raises BadInput where a size does not fit the strides of the networks."""
    for name, factor in (("size", 32), ("channels", 4)):
        if getattr(settings, name) % factor:
            raise BadInput(f"must be a multiple of {factor}", field=f"options.{name}")


def loop_settings(settings: DetectionSettings, spec: TrainSpec) -> LoopSettings:
    """The optimisation of one run: AdamW, warm-up, cosine; shorter and slower from a finished version."""
    return LoopSettings(
        iterations=settings.continue_iterations if spec.continues else settings.iterations,
        lr=settings.continue_lr if spec.continues else settings.lr,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        amp=settings.bf16,
        seconds=spec.seconds,
    )
