"""Hyper-parameters of the learner ``detectron2``: a preset, overridden by ``TrainSpec.options``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.learners.options import preset_of, with_options

__all__ = ["PRESETS", "Detectron2Settings", "detectron2_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detectron2Settings:
    """One run. ``size`` is the short side in network pixels; ``mask_head`` is ``fcn`` or ``pointrend``;
    ``weights`` is ``auto`` (the model zoo's COCO weights if they are available), ``none`` or a path.
    """

    iterations: int = 300
    batch: int = 2
    size: int = 320
    lr: float = 0.0025
    max_detections: int = 300
    score_threshold: float = 0.05
    mask_head: str = "fcn"
    weights: str = "auto"


PRESETS: dict[str, Detectron2Settings] = {
    "light": Detectron2Settings(),
    "full": Detectron2Settings(iterations=4000, batch=8, size=640, lr=0.01),
}
_CHOICES = {"mask_head": ("fcn", "pointrend")}


def detectron2_options(preset: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``Detectron2Settings`` of a preset with ``options`` put over it, ready for JSON.

    Raises BadInput naming the preset or option.
    """
    positive = ("iterations", "batch", "size", "lr", "max_detections")
    return dataclasses.asdict(
        with_options(preset_of(PRESETS, preset), options, choices=_CHOICES, positive=positive)
    )
