"""The protocol every learner follows: train, predict, evaluate, export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ml_backend.examples import Example
from ml_backend.instances import Instances

__all__ = ["Evaluation", "Learner", "Predictor", "Progress", "TrainReport", "TrainSpec"]

Progress = Callable[[float, str], None]
"""Called with the share done (0..1) and one line about it (loss, AP, …)."""


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Everything a training run depends on; serialised beside the model as its snapshot.

    ``preset`` is ``light`` (CPU) or ``full``; ``start`` is the folder of an earlier version of the same
    learner to continue from, or None; ``options`` overrides single hyper-parameters of the preset.
    """

    labels: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    preset: str = "light"
    start: Path | None = None
    seed: int = 0
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Quality on the frozen test split. Intervals are 95 % bootstrap over images.

    ``metrics`` maps names (``AP``, ``AP50``, ``AP75``, ``AP/<label>``) to (value, low, high), all in 0..1.
    """

    n_images: int
    n_instances: int
    metrics: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training run did: weights it started from (said aloud), iterations, seconds, evaluation."""

    learner: str
    started_from: str
    iterations: int
    seconds: float
    evaluation: Evaluation
    history: tuple[tuple[int, float], ...] = ()


class Predictor(Protocol):
    """A loaded model version; safe to call from several threads (it holds its own device lock)."""

    labels: tuple[str, ...]
    embedding_dim: int

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order; batched inside."""
        ...


class Learner(Protocol):
    """One kind of model. Implementations import torch lazily and never touch Flask or Label Studio."""

    name: str

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into the empty folder ``out`` (weights.safetensors, learner.json)."""
        ...

    def load(self, folder: Path, *, device: str = "auto") -> Predictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        ...

    def export(self, folder: Path, out: Path) -> Path:
        """Write the version in a form other programs load (TorchScript or ONNX); returns the file."""
        ...
