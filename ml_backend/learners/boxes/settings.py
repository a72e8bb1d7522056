"""Hyper-parameters of the box learners: a preset, overridden by ``TrainSpec.options``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ml_backend.errors import BadInput
from ml_backend.learners.options import preset_of, with_options
from ml_backend.learners.training.detection_settings import FULL, POSITIVE, DetectionSettings, check_multiples

__all__ = ["FASTER_RCNN", "ONE_STAGE", "BoxSettings", "box_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSettings(DetectionSettings):
    """One run: see ``DetectionSettings``, and

    Attributes
    ----------
    backbone : ``auto`` (``mobilenet_v3_large`` where its published weights can be had, else ``small``),
        ``small``, ``mobilenet_v3_large``, ``resnet50``
    turn : ``auto`` (``none`` on weights learnt from photographs, else ``quarter``), ``none``, ``quarter``
    """

    backbone: str = "auto"


FASTER_RCNN: Final[Mapping[str, BoxSettings]] = {
    "light": BoxSettings(),
    "full": BoxSettings(**FULL),
}
ONE_STAGE: Final[Mapping[str, BoxSettings]] = FASTER_RCNN
_CHOICES = {
    "backbone": ("auto", "small", "mobilenet_v3_large", "resnet50"),
    "turn": ("auto", "none", "quarter"),
    "bf16": ("auto", "on", "off"),
}


def box_settings(presets: Mapping[str, BoxSettings], preset: str, options: Mapping[str, Any]) -> BoxSettings:
    """The preset with ``options`` put over it. Raises BadInput naming the preset or the option."""
    settings = with_options(preset_of(presets, preset), options, choices=_CHOICES, positive=POSITIVE)
    check_multiples(settings)
    for name in ("score_threshold", "nms"):
        if getattr(settings, name) > 1:
            raise BadInput("must be at most 1", field=f"options.{name}")
    return settings
