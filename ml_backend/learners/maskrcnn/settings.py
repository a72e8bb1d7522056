"""Hyper-parameters of a training run: a preset, overridden by ``TrainSpec.options``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.options import with_options
from ml_backend.learners.training.settings import LoopSettings

__all__ = ["PRESETS", "TrainSettings", "loop_settings", "train_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """One run. Sizes are network pixels (after scaling).

    Attributes
    ----------
    backbone : ``small``, ``mobilenet_v3_large``, ``resnet50``
    channels : width of the feature pyramid and heads (light backbones)
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
    mask_margin : share of a box's sides by which masks may reach beyond it, on each side
    box_passes : how often a box goes through the box head, 1 to 4
    quality_head : 1 = learn to predict the IoU of each mask, 0 = guess it from the pixels
    weights : ``auto``, ``cached``, ``none`` or a path, see ``published_weights``
    turn : ``auto``, ``none``, ``quarter``, ``any``, see ``CropSettings``
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
    mask_margin: float = 0.0
    box_passes: int = 2
    quality_head: int = 1
    weights: str = "auto"
    turn: str = "auto"
    threads: int = 0
    workers: int = 0
    bf16: str = "auto"


PRESETS: dict[str, TrainSettings] = {
    "light": TrainSettings(),
    "full": TrainSettings(
        backbone="resnet50",
        channels=256,
        iterations=4000,
        continue_iterations=1500,
        batch=8,
        size=640,
        target_px=48.0,
        max_side=1333,
        lr=2e-4,
        continue_lr=1e-4,
        workers=8,
    ),
}
_CHOICES = {
    "backbone": ("small", "mobilenet_v3_large", "resnet50"),
    "turn": ("auto", "none", "quarter", "any"),
    "bf16": ("auto", "on", "off"),
}
_POSITIVE = (
    "iterations",
    "continue_iterations",
    "batch",
    "size",
    "target_px",
    "max_side",
    "channels",
    "box_passes",
)


def train_settings(preset: str, options: Mapping[str, Any]) -> TrainSettings:
    """The preset with ``options`` put over it. Raises BadInput naming the option."""
    if preset not in PRESETS:
        raise BadInput(
            f"no preset is called {preset!r}", field="preset", hint=f"Choose one of: {', '.join(PRESETS)}"
        )
    settings = with_options(PRESETS[preset], options, choices=_CHOICES, positive=_POSITIVE)
    for name, most in (("mask_margin", 1.0), ("box_passes", 4), ("quality_head", 1)):
        if getattr(settings, name) > most:
            raise BadInput(f"must be at most {most}", field=f"options.{name}")
    for name, factor in (("size", 32), ("channels", 4)):
        if getattr(settings, name) % factor:
            raise BadInput(f"must be a multiple of {factor}", field=f"options.{name}")
    return settings


def loop_settings(settings: TrainSettings, spec: TrainSpec) -> LoopSettings:
    """The optimisation of one run: AdamW, warm-up, cosine; shorter and slower from a finished version."""
    return LoopSettings(
        iterations=settings.continue_iterations if spec.continues else settings.iterations,
        lr=settings.continue_lr if spec.continues else settings.lr,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        amp=settings.bf16,
        seconds=spec.seconds,
    )
