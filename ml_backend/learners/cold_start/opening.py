"""Find out what kind of detector an option names, and load it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_backend.errors import BadInput
from ml_backend.learners.cold_start.hub import Hub
from ml_backend.learners.cold_start.settings import TORCHVISION, ColdStart
from ml_backend.learners.cold_start.source import Source
from ml_backend.learners.version_files import CONFIG

__all__ = ["open_source"]

_OWL = ("owlvit", "owlv2")
_GROUNDED = ("grounding-dino", "mm-grounding-dino")
_SAM3 = ("sam3", "sam3_video")


def open_source(settings: ColdStart, labels: Sequence[str], device: str) -> Source:
    """The detector of the option ``detector``. Raises BadInput, ModelError."""
    folder = Path(settings.detector)
    if settings.detector.startswith(TORCHVISION) and not folder.is_dir():
        from ml_backend.learners.cold_start.torchvision_source import TorchvisionSource

        return TorchvisionSource(settings)
    if (folder / CONFIG).is_file():
        from ml_backend.learners.cold_start.version_source import VersionSource

        return VersionSource(folder, device)
    return _of_transformers(settings, labels)


def _of_transformers(settings: ColdStart, labels: Sequence[str]) -> Source:
    """A model of transformers, by what its config says it is."""
    hub = Hub(settings.detector, settings.weights, "options.detector")
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    kind = str(hub.load(AutoConfig).model_type)
    if kind in _OWL:
        from ml_backend.learners.cold_start.word_sources import OwlSource

        return OwlSource(hub, settings, labels)
    if kind in _GROUNDED:
        from ml_backend.learners.cold_start.word_sources import GroundedSource

        return GroundedSource(hub, settings, labels)
    if kind in _SAM3:
        from ml_backend.learners.cold_start.sam3_source import Sam3Source

        return Sam3Source(hub, settings, labels)
    if kind in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        from ml_backend.learners.cold_start.class_source import ClassSource

        return ClassSource(hub, settings)
    known = (*_OWL, *_GROUNDED, *_SAM3, *MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)
    raise BadInput(
        f"{settings.detector} is a model of type {kind!r}, which finds no objects",
        field="options.detector",
        hint=f"Detectors: {', '.join(known)}",
    )
