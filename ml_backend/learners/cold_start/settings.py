"""Options of the learner ``zero-shot``. Without torch, so that they can be checked long before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ml_backend.errors import BadInput
from ml_backend.learners.class_map import DROP
from ml_backend.learners.options import with_options

__all__ = ["TORCHVISION", "ColdStart", "NamedClasses", "cold_start_settings"]

TORCHVISION: Final = "torchvision/"


@dataclass(frozen=True, slots=True)
class _Plain:
    """Options that are single values."""

    detector: str = ""
    weights: str = "auto"
    prompt: str = "{}"
    score_threshold: float = 0.0
    nms: float = 0.6
    max_detections: int = 100
    masks: str = "box"
    batch: int = 2


@dataclass(frozen=True, slots=True)
class NamedClasses:
    """What the detector's classes are called in the project.

    ``named``: class of the detector -> label of the project, or ``DROP``; ``default``: label of all classes
    that are not named, ``DROP``, or None: the label of the same name.
    """

    named: Mapping[str, str]
    default: str | None


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What is looked for, and with what.

    Attributes
    ----------
    detector : ``torchvision/<name>`` (``torchvision/fasterrcnn_resnet50_fpn_v2``); the folder of a model
        version; the folder or hub name of a transformers model: a detector with classes (RT-DETR, D-FINE,
        DETR, …), one that looks for words (OWLv2, OWL-ViT, Grounding DINO), or SAM 3, which also gives masks
    weights : of a torchvision detector: ``auto`` (cached, else downloaded), ``cached`` or the path of a file.
        Of a transformers model: ``auto`` may ask the hub, ``cached`` never does
    classes : names of the classes of a torchvision checkpoint of one's own, the first class first; empty:
        COCO's
    class_map : JSON, a mapping or a file: ``{"map": {"car": "vehicle", "truck": "vehicle"},
        "drop": ["person"], "default": "thing"}``. Only for detectors with classes. Without ``default`` a
        class that is not named goes to the label of the same name, or nowhere
    synonyms : ``{"RBC": ["red blood cell", "erythrocyte"]}``: what to look for beside the label's name. Only
        for detectors that look for words
    only_synonyms : labels whose own name is not looked for, because no one outside knows it
    prompt : how a name is put to the detector; ``{}`` is the name
    score_threshold : detections below are dropped; 0 = what suits the kind of detector
    nms : overlap above which the weaker of two boxes of a label is dropped
    max_detections : per picture
    masks : what becomes the mask where the detector gives boxes only: ``box`` (the filled box), ``grabcut``
        (colours inside against outside), or the folder or hub name of a SAM model of transformers
    batch : pictures at a time
    """

    detector: str
    weights: str
    classes: tuple[str, ...]
    class_map: NamedClasses
    synonyms: Mapping[str, tuple[str, ...]]
    only_synonyms: tuple[str, ...]
    prompt: str
    score_threshold: float
    nms: float
    max_detections: int
    masks: str
    batch: int


_LISTS: Final = ("classes", "only_synonyms")
_OTHERS: Final = ("class_map", "synonyms", *_LISTS)


def cold_start_settings(options: Mapping[str, Any], labels: Sequence[str] | None = None) -> ColdStart:
    """The options, checked; with ``labels`` of the project also the names in them. Raises BadInput."""
    plain = with_options(
        _Plain(),
        {name: value for name, value in options.items() if name not in _OTHERS},
        positive=("max_detections", "batch"),
    )
    if not plain.detector:
        raise BadInput(
            "no detector is named",
            field="options.detector",
            hint=f"For example {TORCHVISION}fasterrcnn_resnet50_fpn_v2, or the folder of an OWLv2 model",
        )
    if "{}" not in plain.prompt:
        raise BadInput("must contain {} where the name goes", field="options.prompt")
    for name in ("score_threshold", "nms"):
        if getattr(plain, name) > 1:
            raise BadInput("must be at most 1", field=f"options.{name}")
    classes, only = (_names(options.get(name, ()), f"options.{name}") for name in _LISTS)
    settings = ColdStart(
        detector=plain.detector,
        weights=plain.weights,
        classes=classes,
        class_map=_class_map(options.get("class_map")),
        synonyms=_synonyms(options.get("synonyms")),
        only_synonyms=only,
        prompt=plain.prompt,
        score_threshold=plain.score_threshold,
        nms=plain.nms,
        max_detections=plain.max_detections,
        masks=plain.masks,
        batch=plain.batch,
    )
    for label in settings.only_synonyms:
        if not settings.synonyms.get(label):
            raise BadInput(f"{label!r} has no synonyms", field="options.only_synonyms")
    if labels is not None:
        _check_labels(settings, labels)
    return settings


def _check_labels(settings: ColdStart, labels: Sequence[str]) -> None:
    mapped = [*settings.class_map.named.values(), settings.class_map.default]
    for field, names in (("class_map", mapped), ("synonyms", settings.synonyms)):
        for name in names:
            if name not in (None, DROP) and name not in labels:
                raise BadInput(
                    f"the project has no label {name!r}",
                    field=f"options.{field}",
                    hint=f"It has {', '.join(labels)}",
                )


def _class_map(value: Any) -> NamedClasses:
    where = "options.class_map"
    if value in (None, "", {}):
        return NamedClasses({}, None)
    given = _mapping(value, where)
    unknown = set(given) - {"map", "drop", "default"}
    if unknown:
        raise BadInput(f"{min(unknown)!r} is not known", field=where, hint="Known: map, drop, default")
    named: dict[str, str] = {}
    pairs = [*_mapping(given.get("map", {}), where).items()]
    pairs += [(name, DROP) for name in _names(given.get("drop", ()), where)]
    for name, label in pairs:
        if not isinstance(label, str):
            raise BadInput(f"{name!r} is mapped to {label!r}, which is no label", field=where)
        if name in named:
            raise BadInput(f"class {name!r} is mapped twice", field=where)
        named[name] = label
    default = given.get("default")
    if default is not None and not isinstance(default, str):
        raise BadInput(f"the default {default!r} is no label", field=where)
    return NamedClasses(named, default)


def _synonyms(value: Any) -> dict[str, tuple[str, ...]]:
    if value in (None, "", {}):
        return {}
    where = "options.synonyms"
    return {label: _names(words, where) for label, words in _mapping(value, where).items()}


def _names(value: Any, where: str) -> tuple[str, ...]:
    """A list of strings; a string is JSON, or names between commas."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = value.split(",")
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise BadInput(f"{value!r} is not a list of names", field=where)
    if not all(isinstance(name, str) and name.strip() for name in value):
        raise BadInput("every name must be a text that is not empty", field=where)
    return tuple(name.strip() for name in value)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping, JSON, or the path of a JSON file; no key may appear twice."""
    if isinstance(value, str):
        try:
            text = value if value.lstrip().startswith("{") else Path(value).read_text("utf-8")
            value = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
        except OSError as error:
            raise BadInput(f"{value} cannot be read: {error}", field=where) from error
        except ValueError as error:
            raise BadInput(f"this is no JSON: {error}", field=where) from error
    if not isinstance(value, Mapping):
        raise BadInput(f"{value!r} is not a mapping", field=where)
    return dict(value)


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadInput(f"{name!r} is mapped twice", field=where)
        found[name] = value
    return found
