"""Hyper-parameters of a training run: a preset, overridden by ``TrainSpec.options``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.learners.options import preset_of, with_options
from ml_backend.learners.training.detection_settings import FULL, POSITIVE, DetectionSettings, check_multiples

__all__ = ["PRESETS", "TrainSettings", "train_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(DetectionSettings):
    """One run: see ``DetectionSettings``, and

    Attributes
    ----------
    mask_margin : share of a box's sides by which masks may reach beyond it, on each side
    box_passes : how often a box goes through the box head, 1 to 4
    quality_head : 1 = learn to predict the IoU of each mask, 0 = guess it from the pixels
    turn : ``auto``, ``none``, ``quarter``, ``any``, see ``CropSettings``
    """

    mask_margin: float = 0.0
    box_passes: int = 2
    quality_head: int = 1


PRESETS: dict[str, TrainSettings] = {
    "light": TrainSettings(),
    "full": TrainSettings(**FULL),
}
_CHOICES = {
    "backbone": ("small", "mobilenet_v3_large", "resnet50"),
    "turn": ("auto", "none", "quarter", "any"),
    "bf16": ("auto", "on", "off"),
}


def train_settings(preset: str, options: Mapping[str, Any]) -> TrainSettings:
    """The preset with ``options`` put over it. Raises BadInput naming the option."""
    settings = with_options(
        preset_of(PRESETS, preset), options, choices=_CHOICES, positive=(*POSITIVE, "box_passes")
    )
    for name, most in (("mask_margin", 1.0), ("box_passes", 4), ("quality_head", 1)):
        if getattr(settings, name) > most:
            raise BadInput(f"must be at most {most}", field=f"options.{name}")
    check_multiples(settings)
    return settings
