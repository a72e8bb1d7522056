"""A model version of ours, from this installation or another, as a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ml_backend.artifacts.files import read_json
from ml_backend.errors import ModelError
from ml_backend.learners.boxes.learner import BoxLearner
from ml_backend.learners.cold_start.source import Hits
from ml_backend.learners.registry import get_learner
from ml_backend.learners.version_files import CONFIG

__all__ = ["VersionSource"]


class VersionSource:
    """See ``Source``. Masks, predicted IoUs and embeddings are the version's own."""

    words = False

    def __init__(self, folder: Path, device: str) -> None:
        try:
            name = str(read_json(folder / CONFIG)["learner"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{folder} holds no model version: {error!r}", field="options.detector"
            ) from error
        if name == "zero-shot":
            raise ModelError(f"{folder} is itself a cold start", field="options.detector")
        learner = get_learner(name)
        self._inner = learner.load(folder, device=device)
        self.classes = tuple(self._inner.labels)
        self.embedding_dim = self._inner.embedding_dim
        self.nbytes = self._inner.nbytes
        self.gives_masks = not isinstance(learner, BoxLearner)
        self.said = f"version {folder.name} of learner {name}"

    def find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Hits]:
        """See ``Source``."""
        return [
            Hits(
                one.box_xyxy,
                one.label,
                one.score,
                one.embedding,
                one.quality,
                one.rle if self.gives_masks else None,
            )
            for one in self._inner.predict(images)
        ]

    def move(self, device: torch.device) -> None:
        """Nothing: the predictor looks after its device itself."""
