"""Hyper-parameters of a training run: a preset, overridden by ``TrainSpec.options``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.learners.options import preset_of, with_options
from ml_backend.learners.training.settings import LoopSettings
from ml_backend.masks.components import MIN_COMPONENT_PX

__all__ = ["PRESETS", "TrainSettings", "train_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """One run. Sizes are network pixels (after scaling).

    Attributes
    ----------
    unit : ``mask`` (all of a label on a picture is one instance) or ``component`` (each connected part is)
    min_area : components of fewer image pixels are left out
    threshold : ``best`` (chosen per label on held-out training pictures) or a number in 0..1
    decoder : ``skip`` (outlines refined with features at a quarter of the resolution) or ``plain`` (DeepLabV3
        as published)
    iterations, continue_iterations : optimiser steps from scratch, and from an earlier version
    batch : crops per step, at least 2
    size : side of a training crop
    target_px : size that the median connected part is scaled to
    max_side : longest side an image is scaled to by the fitted scale
    lr, continue_lr : peak learning rates (Adam, linear warm-up, cosine to zero)
    weight_decay, clip : regularisation (decoupled), largest gradient norm
    alpha, gamma : of the focal loss
    zoom : crops are drawn at 1/zoom to zoom times the fitted scale
    held_out : share of the training pictures that thresholds and calibration are fitted on
    weights : ``auto``, ``cached``, ``none`` or a path, see ``published_weights``
    turn : ``auto``, ``none``, ``quarter`` or ``any``: how crops may be turned
    threads : torch threads, 0 = torch's choice
    workers : processes that prepare crops, 0 = none
    bf16 : ``auto`` (where the device computes in bfloat16 natively), ``on``, ``off``
    """

    unit: str = "mask"
    min_area: int = MIN_COMPONENT_PX
    threshold: str = "best"
    decoder: str = "skip"
    iterations: int = 300
    continue_iterations: int = 120
    batch: int = 8
    size: int = 192
    target_px: float = 32.0
    max_side: int = 512
    lr: float = 1e-3
    continue_lr: float = 5e-4
    weight_decay: float = 0.0
    clip: float = 5.0
    alpha: float = 0.25
    gamma: float = 2.0
    zoom: float = 1.5
    held_out: float = 0.2
    weights: str = "auto"
    turn: str = "auto"
    threads: int = 0
    workers: int = 0
    bf16: str = "auto"

    def loop(self, iterations: int, lr: float, seconds: float) -> LoopSettings:
        """Settings of the shared training loop."""
        return LoopSettings(
            iterations=iterations,
            lr=lr,
            optimiser="adamw",  # Adam where weight_decay is 0
            weight_decay=self.weight_decay,
            clip=self.clip,
            amp=self.bf16,
            seconds=seconds,
        )

    @property
    def fixed_threshold(self) -> float | None:
        """The threshold where it is a number, None where it is chosen."""
        return None if self.threshold == "best" else float(self.threshold)


PRESETS: dict[str, TrainSettings] = {
    "light": TrainSettings(),
    "full": TrainSettings(
        iterations=4000,
        continue_iterations=1500,
        batch=32,
        size=512,
        target_px=64.0,
        max_side=1024,
        zoom=2.0,
        workers=8,
    ),
}
_CHOICES = {
    "unit": ("mask", "component"),
    "decoder": ("skip", "plain"),
    "turn": ("auto", "none", "quarter", "any"),
    "bf16": ("auto", "on", "off"),
}
_POSITIVE = ("iterations", "continue_iterations", "batch", "size", "target_px", "max_side", "lr", "zoom")


def train_settings(preset: str, options: Mapping[str, Any]) -> TrainSettings:
    """The preset with ``options`` put over it. Raises BadInput naming the option."""
    settings = with_options(preset_of(PRESETS, preset), options, choices=_CHOICES, positive=_POSITIVE)
    if settings.size % 32:
        raise BadInput("must be a multiple of 32", field="options.size")
    if settings.batch < 2:
        raise BadInput("must be 2 or more: batch normalisation needs two crops", field="options.batch")
    if settings.zoom < 1:
        raise BadInput("must be 1 or more", field="options.zoom")
    if settings.held_out > 0.5:
        raise BadInput("must be 0.5 or less", field="options.held_out")
    _check_threshold(settings.threshold)
    return settings


def _check_threshold(value: str) -> None:
    try:
        if value == "best" or 0 < float(value) < 1:
            return
    except ValueError:
        pass
    raise BadInput(f"{value!r} is neither 'best' nor a number in 0..1", field="options.threshold")
