"""Settings of a training from tags: a preset, overridden by ``TrainSpec.options``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.learners.maskrcnn.settings import train_settings
from ml_backend.learners.options import preset_of, with_options
from ml_backend.learners.weak.sources import SOURCES

__all__ = ["PRESETS", "CimSettings", "cim_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CimSettings:
    """One run.

    Attributes
    ----------
    proposals : where masks come from: ``classical``, or ``segmenter`` (a click segmenter with a checkpoint)
    most : proposals per picture
    work_side : longest side in pixels at which proposals are found
    pictures : training pictures that are mined, drawn at random where there are more; 0 = all
    iterations, batch : optimiser steps, pictures per step; where ``iterations`` are given as an option, Mask
        R-CNN takes as many, unless ``refine_iterations`` says otherwise
    lr, weight_decay, clip : of the heads
    width, dropout : of the heads
    seed_share, seed_score : which proposals may be seeds, see ``MiningSettings``
    integrity : ``on``; ``off`` = no search for complete instances (for comparison)
    score_threshold : predictions below are dropped: class score times integrity
    pseudo_threshold : mined instances below do not train Mask R-CNN, see ``pseudo_example``
    nms : mask IoU above which the weaker of two instances is dropped
    refine : ``on`` = Mask R-CNN learns from the pseudo labels and predicts; ``off`` = the heads predict
    """

    proposals: str = "classical"
    most: int = 300
    work_side: int = 480
    pictures: int = 400
    iterations: int = 400
    batch: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-3
    clip: float = 5.0
    width: int = 128
    dropout: float = 0.2
    seed_share: float = 0.1
    seed_score: float = 0.3
    integrity: str = "on"
    score_threshold: float = 0.05
    pseudo_threshold: float = 0.3
    nms: float = 0.3
    refine: str = "on"


PRESETS = {"light": CimSettings(), "full": CimSettings(pictures=2000, iterations=2000)}
_CHOICES = {"proposals": tuple(SOURCES), "integrity": ("on", "off"), "refine": ("on", "off")}
_POSITIVE = ("most", "work_side", "iterations", "batch", "lr", "width", "seed_share", "nms")
REFINE = "refine_"


def cim_settings(preset: str, options: Mapping[str, Any]) -> tuple[CimSettings, dict[str, Any]]:
    """The preset with ``options`` put over it, and the options of Mask R-CNN, which begin with ``refine_``.

    Raises BadInput naming the option.
    """
    base = preset_of(PRESETS, preset)
    known = {field.name for field in fields(CimSettings)}
    later = {
        name.removeprefix(REFINE): value
        for name, value in options.items()
        if name.startswith(REFINE) and name not in known
    }
    if "iterations" in options:  # who asks for a short training means the whole of it
        later.setdefault("iterations", options["iterations"])
    own = {name: value for name, value in options.items() if name in known or not name.startswith(REFINE)}
    settings = with_options(base, own, choices=_CHOICES, positive=_POSITIVE)
    for name in ("seed_share", "seed_score", "score_threshold", "pseudo_threshold", "nms"):
        if getattr(settings, name) > 1:
            raise BadInput("must be at most 1", field=f"options.{name}")
    if settings.dropout >= 1:
        raise BadInput("must be below 1", field="options.dropout")
    try:
        train_settings(preset, later)
    except BadInput as error:
        field = (error.field or "").replace("options.", f"options.{REFINE}")
        raise BadInput(str(error.message), field=field, hint=error.hint) from error
    return settings, later
