"""Learners by name: a new learner is a new file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.base import Learner

__all__ = ["LEARNERS", "check_options", "get_learner"]

LEARNERS: dict[str, str] = {
    "adopted": "ml_backend.learners.adopted:Adopted",
    "maskrcnn": "ml_backend.learners.maskrcnn.learner:MaskRcnn",
    "deeplabv3": "ml_backend.learners.segmentation.learner:DeepLabV3",
    "fasterrcnn": "ml_backend.learners.boxes.learner:FasterRcnn",
    "fcos": "ml_backend.learners.boxes.learner:OneStage",
    "zero-shot": "ml_backend.learners.cold_start.learner:ZeroShot",
    "everything": "ml_backend.clicks.serving.everything_learner:EverythingLearner",
    "cim": "ml_backend.learners.weak.learner:Cim",
    "classifier": "ml_backend.learners.classes.learner:Classifier",
    "detectron2": "ml_backend.learners.detectron2.learner:Detectron2",
    "several": "ml_backend.learners.several:Several",
}


def get_learner(name: str) -> Learner:
    """The learner of that name, imported now.

    Raises BadInput for an unknown name, ModelError when a package it needs is not installed.
    """
    target = LEARNERS.get(name)
    if target is None:
        raise BadInput(
            f"there is no learner {name!r}",
            field="learner",
            hint=f"Choose one of: {', '.join(sorted(LEARNERS))}",
        )
    module, _, attribute = target.partition(":")
    try:
        learner: Learner = getattr(import_module(module), attribute)()
    except ImportError as error:
        raise ModelError(
            f"learner {name!r} needs a package that is not installed ({error})", field="learner"
        ) from error
    return learner


def check_options(learner: str, preset: str, options: Mapping[str, Any]) -> None:
    """Check the preset and options of a training. Raises BadInput, naming what is wrong.

    It is called when options are set, long before a training, so it reads no file and does not import torch.
    The field of the error is ``learner``, ``preset`` or ``options.<name>``.
    """
    get_learner(learner).check_options(preset, options)
