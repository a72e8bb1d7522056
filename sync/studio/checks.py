"""Checks of predictions and label configs before they are sent: Label Studio drops bad ones silently."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from ml_backend.errors import StudioError
from sync.studio.protocol import PredictionRow

__all__ = ["data_fields", "prediction_problem"]

_VARIABLE: Final = re.compile(r"\$(\w+)")


@lru_cache(maxsize=32)
def data_fields(label_config: str) -> tuple[str, ...]:
    """Fields that every task must have: the first ``$name`` in the value of each named tag, Image tags first.
    Of ``$image.url`` and ``$images[0]`` that is ``image`` and ``images``.

    Raises StudioError (400) where Label Studio would refuse the config: no XML, or nothing to show.
    """
    try:
        root = ET.fromstring(label_config)
    except ET.ParseError as error:
        raise StudioError(
            f"label config is not XML: {error}", hint="Correct the XML", field="label_config", status=400
        ) from error
    tags = [tag for tag in root.iter() if tag.get("name") and _VARIABLE.search(tag.get("value", ""))]
    tags.sort(key=lambda tag: tag.tag != "Image")
    if not tags:
        raise StudioError(
            "label config shows no field of the tasks",
            hint='Add an object tag such as <Image name="image" value="$image"/>',
            field="label_config",
            status=400,
        )
    return tuple(dict.fromkeys(_field(tag.get("value", "")) for tag in tags))


def _field(value: str) -> str:
    """The field of the data that Label Studio's import asks for, for the value of a tag."""
    if value.startswith("$"):
        return re.split(r"[.\[]", value[1:], maxsplit=1)[0]
    return str(_VARIABLE.findall(value)[0])


def prediction_problem(label_config: str, row: PredictionRow) -> str:
    """Why Label Studio would drop a prediction without an error; empty when it would not."""
    if not row.model_version:
        return "the model version is empty, no project could show it"
    if not 0.0 <= float(row.score) <= 1.0:
        return f"score {row.score} is outside 0..1"
    said = {"result": [_with_short_mask(item) for item in row.result], "score": float(row.score)}
    errors = label_interface(label_config).validate_prediction(said, return_errors=True)
    return str(errors[0]) if errors else ""


def _with_short_mask(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item with the first byte alone of a mask that is fine: the SDK looks at each byte in Python.

    Fine are what the SDK takes, numbers of 0 to 255; any other mask stays whole, for its message.
    """
    value = item.get("value")
    if not isinstance(value, Mapping):
        return dict(item)
    rle = value.get("rle")
    if not isinstance(rle, list) or not rle:
        return dict(item)
    try:
        bytes(rle)
    except (TypeError, ValueError):
        return dict(item)
    return {**item, "value": {**value, "rle": rle[:1]}}


@lru_cache(maxsize=32)
def label_interface(label_config: str) -> Any:
    """The SDK's reading of a label config, which checks predictions as the server does."""
    from label_studio_sdk.label_interface import LabelInterface

    return LabelInterface(label_config)
