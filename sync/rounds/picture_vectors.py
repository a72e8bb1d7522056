"""Feature vectors of the pictures of a project: of the model that serves, or frozen ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.feature_store import add_features, known_features, read_features
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.instances import NO_FEATURE
from ml_backend.learners.picture_features import picture_features
from sync.store.project_store import ProjectStore

__all__ = ["VectorWriter", "frozen_folder", "model_folder", "vectors_of"]

_PER_PART = 512

Features = npt.NDArray[np.float32]


def frozen_folder(paths: ProjectPaths, choice: str) -> Path:
    """Where the frozen features of that choice lie. Raises BadInput for an unknown choice."""
    return paths.features / picture_features(choice).name


def model_folder(paths: ProjectPaths, version: str) -> Path:
    """Where the features of a model version lie: with its pool."""
    return paths.pool(version) / "features"


class VectorWriter:
    """Keeps the vector of each picture that passes by. Use as a context manager."""

    def __init__(self, db: ProjectStore, paths: ProjectPaths, choice: str, version: str = "") -> None:
        self._db = db
        self._frozen = frozen_folder(paths, choice)
        self._own = model_folder(paths, version) if version else None
        self._known: dict[int, str] | None = None
        self._rows: dict[Path, list[tuple[int, str, Features]]] = {}

    def __enter__(self) -> VectorWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for folder in list(self._rows):
            self._flush(folder)  # also after an error: what was added is good

    def lacks(self, task: int, image: str) -> bool:
        """Whether there is no frozen vector yet of this task's picture, which has this address."""
        if self._known is None:
            self._known = known_features(self._frozen)
        return self._known.get(task) != image

    def add(
        self, task: int, image: str, *, own: Features = NO_FEATURE, frozen: Features = NO_FEATURE
    ) -> None:
        """The vector that the model gives of a task's picture, or else the frozen one; one may be empty."""
        if self._own is not None and len(own):
            self._keep(self._own, task, image, own)
        elif len(frozen) and self.lacks(task, image):
            self._keep(self._frozen, task, image, frozen)
            assert self._known is not None
            self._known[task] = image

    def _keep(self, folder: Path, task: int, image: str, vector: Features) -> None:
        rows = self._rows.setdefault(folder, [])
        rows.append((task, image, vector))
        if len(rows) >= _PER_PART:
            self._flush(folder)

    def _flush(self, folder: Path) -> None:
        rows = self._rows.pop(folder, [])
        if rows:
            tasks, images, vectors = zip(*rows, strict=True)
            add_features(folder, tasks, images, np.stack(vectors), guard=self._db.guard)


def vectors_of(
    paths: ProjectPaths, choice: str, version: str, tasks: Sequence[int], labelled: Sequence[int]
) -> tuple[Features, Features]:
    """Vectors of the tasks, (n, f), and those known of labelled tasks, (m, f), of the same model.

    The model version's own where it gave some, else frozen ones. Tasks without a vector get the mean of the
    others; f is 0 when there is none. Raises StorageError.
    """
    for folder in (model_folder(paths, version) if version else None, frozen_folder(paths, choice)):
        if folder is None:
            continue
        there, vectors = read_features(folder, tasks)
        if not there.any():
            continue
        vectors[~there] = vectors[there].mean(axis=0)
        of_labelled, more = read_features(folder, labelled)
        fits = more.shape[1] == vectors.shape[1]
        return vectors, more[of_labelled] if fits else np.zeros((0, vectors.shape[1]), np.float32)
    return np.zeros((len(tasks), 0), np.float32), np.zeros((0, 0), np.float32)
