"""What is needed to build a box network again; stored as ``learner.json`` beside the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ml_backend.errors import ModelError
from ml_backend.learners.maskrcnn.geometry import Geometry

__all__ = ["BoxNetwork", "network_from_json"]


@dataclass(frozen=True, slots=True)
class BoxNetwork:
    """Description of a box network.

    ``normalise`` is ``image`` (each image by its own mean and standard deviation) or ``imagenet`` (for
    published weights). ``max_side``: longest side of the network's input, in network pixels.
    """

    labels: tuple[str, ...]
    backbone: str
    channels: int
    geometry: Geometry
    normalise: str
    score_threshold: float
    nms: float
    max_side: int = 1600

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_ADAPTER = TypeAdapter(BoxNetwork)


def network_from_json(value: Mapping[str, Any]) -> BoxNetwork:
    """Raises ModelError where a field is missing or of another kind."""
    try:
        return _ADAPTER.validate_python(dict(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"the description of the model is damaged ({where}: {first['msg']})", field="learner.json"
        ) from error
