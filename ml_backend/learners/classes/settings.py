"""Hyper-parameters of the classifier: a preset, overridden by ``TrainSpec.options``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadInput
from ml_backend.learners.options import preset_of, with_options

__all__ = ["PRESETS", "ClassifierSettings", "classifier_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """One run.

    Attributes
    ----------
    method : ``auto`` (the better one by cross-validation), ``linear`` (a linear head on frozen features),
        ``network`` (MobileNetV3-small, all of it trained)
    features : frozen features: ``auto`` (MobileNetV3-small with published weights where they are here, else
        patches), ``mobilenet``, ``patches`` (filters learnt from the pictures themselves, no weights
        needed), or the path of a folder with a model for transformers' AutoModel
    weights : of MobileNetV3-small: ``auto``, ``cached``, ``none`` or a path, see ``published_weights``
    side : side of the square that pictures are scaled to, pixels; 0 = 256 for patches, the model's own for a
        folder, 224 else
    network_from : labelled pictures below which ``auto`` does not try the network
    folds : parts of the cross-validation
    iterations, continue_iterations : optimiser steps of the network, and from an earlier version
    batch, lr, continue_lr, weight_decay, clip, ema : of the network's training (AdamW, cosine)
    augment : ``none``, ``photo`` (mirrored, colours), ``any`` (upside down and quarter turns too)
    least : in multiple choice, labels with a probability below are not among the predictions
    positive : the label that the order by largest probability asks for; empty: the rarest one
    threads : torch threads, 0 = torch's choice
    """

    method: str = "auto"
    features: str = "auto"
    weights: str = "auto"
    side: int = 0
    network_from: int = 100
    folds: int = 3
    iterations: int = 300
    continue_iterations: int = 150
    batch: int = 32
    lr: float = 1.5e-3
    continue_lr: float = 5e-4
    weight_decay: float = 0.02
    clip: float = 5.0
    ema: float = 0.98
    augment: str = "any"
    least: float = 0.1
    positive: str = ""
    threads: int = 0


PRESETS: dict[str, ClassifierSettings] = {
    "light": ClassifierSettings(),
    "full": ClassifierSettings(folds=5, iterations=2000, continue_iterations=800, batch=64, ema=0.998),
}
_CHOICES = {"method": ("auto", "linear", "network"), "augment": ("none", "photo", "any")}
_POSITIVE = ("iterations", "continue_iterations", "batch", "lr", "continue_lr", "network_from")


def classifier_settings(preset: str, options: Mapping[str, Any]) -> ClassifierSettings:
    """The preset with ``options`` put over it. Raises BadInput naming the option."""
    settings = with_options(preset_of(PRESETS, preset), options, choices=_CHOICES, positive=_POSITIVE)
    if settings.side and (settings.side < 32 or settings.side % 4):
        raise BadInput("must be 0, or 32 or more and a multiple of 4", field="options.side")
    if settings.folds < 2:
        raise BadInput("must be 2 or more", field="options.folds")
    for name in ("ema", "least"):
        if getattr(settings, name) >= 1:
            raise BadInput("must be less than 1", field=f"options.{name}")
    return settings
