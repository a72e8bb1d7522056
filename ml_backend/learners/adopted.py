"""A version of another project or installation, taken over with a class map; it cannot be trained.

A version is a folder: the other version as it was in ``model/``, and ``learner.json`` with its learner and
the class map. Where every label keeps its name, a copy of the other version does instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from ml_backend.artifacts.files import write_json
from ml_backend.errors import BadInput, ModelError
from ml_backend.instances import Instances
from ml_backend.learners.base import Predictor, Progress, TrainReport, TrainSpec
from ml_backend.learners.class_map import ClassMap
from ml_backend.learners.registry import get_learner
from ml_backend.learners.version_files import CONFIG, read_description

__all__ = ["NAME", "Adopted", "AdoptedPredictor", "write_adopted"]

NAME = "adopted"
_MAP = TypeAdapter(ClassMap)


def write_adopted(folder: Path, learner: str, mapping: ClassMap) -> None:
    """Write ``learner.json`` beside ``model/``."""
    write_json(
        folder / CONFIG,
        {"learner": NAME, "of": learner, "map": json.loads(_MAP.dump_json(mapping))},
    )


class AdoptedPredictor:
    """The other version's predictor under the labels of this project."""

    def __init__(self, inner: Predictor, mapping: ClassMap) -> None:
        self.labels = mapping.ours
        self.embedding_dim = inner.embedding_dim
        self.nbytes = inner.nbytes
        self._inner = inner
        self._map = mapping

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        for found in self._inner.predict(images):
            yield self._map.apply(found)


class Adopted:
    """See ``ml_backend.learners.base.Learner``."""

    name = NAME

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput always: it is no learner for ``--option learner=…``."""
        raise BadInput(
            "adopted versions cannot be trained", field="learner", hint="Use `groundswell predict --model`"
        )

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Raises BadInput always."""
        raise BadInput("adopted versions cannot be trained", field="learner")

    def load(self, folder: Path, *, device: str = "auto") -> AdoptedPredictor:
        """The other version's predictor, mapped. Raises ModelError when the folder is damaged."""
        inner, mapping = _read(folder)
        predictor = get_learner(inner).load(folder / "model", device=device)
        if tuple(predictor.labels) != mapping.theirs:
            raise ModelError(f"the class map in {folder} is for another model")
        return AdoptedPredictor(predictor, mapping)

    def export(self, folder: Path, out: Path) -> Path:
        """The other version, as its own learner exports it: with its own labels."""
        return get_learner(_read(folder)[0]).export(folder / "model", out)


def _read(folder: Path) -> tuple[str, ClassMap]:
    try:
        value = read_description(folder, NAME)
        return str(value["of"]), _MAP.validate_python(value["map"])
    except (KeyError, ValidationError) as error:
        raise ModelError(f"{folder} holds no adopted version: {error}") from error
