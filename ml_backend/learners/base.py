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

__all__ = ["Evaluation", "Learner", "LeftOut", "Predictor", "Progress", "TrainReport", "TrainSpec"]

Progress = Callable[[float, str], None]
"""Called with the share done (0..1) and one line about it (loss, AP, …)."""


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Everything a training run depends on.

    ``preset`` is ``light`` (CPU) or ``full``; ``start`` is the folder of an earlier version of the same
    learner to continue from, or None; ``options`` overrides single hyper-parameters of the preset.
    ``exclusive`` says that a picture has one tag only (a single choice).

    ``resume`` is a folder that survives a kill: checkpoints lie there, and a later call with the same spec
    goes on from the last one. ``seconds`` > 0 limits the time of the optimisation, for an early version that
    is shown while the whole training goes on; ``start_is_early`` says that ``start`` is such a version.
    """

    labels: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    preset: str = "light"
    start: Path | None = None
    seed: int = 0
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    exclusive: bool = False
    resume: Path | None = None
    seconds: float = 0.0
    start_is_early: bool = False

    @property
    def continues(self) -> bool:
        """Whether this goes on from a version that was trained to its end, so that a shorter run suffices."""
        return self.start is not None and not self.start_is_early


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Quality on the frozen test split. Intervals are 95 % bootstrap over images.

    ``metrics`` maps names (``AP``, ``AP50``, ``AP75``, ``AP/<label>``, ``AP50/<label>``; ``IoU``,
    ``accuracy``, … of learners that find other things than instances) to (value, low, high), all in 0..1.
    """

    n_images: int
    n_instances: int
    metrics: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A task that training could not use, and why: its picture is unreadable or does not fit its masks."""

    task_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training run did.

    ``started_from`` is a sentence about the weights it started from; ``history`` holds (iteration, mean loss)
    pairs; ``left_out`` names the tasks of both splits that took no part; ``cut_short`` says that
    ``TrainSpec.seconds`` were over before the training was.
    """

    learner: str
    started_from: str
    iterations: int
    seconds: float
    evaluation: Evaluation
    history: tuple[tuple[int, float], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    cut_short: bool = False


class Predictor(Protocol):
    """A loaded model version; safe to call from several threads (it holds its own device lock)."""

    labels: tuple[str, ...]
    embedding_dim: int
    nbytes: int
    """Memory of its weights, for caches that are bounded by bytes."""

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order; batched inside."""
        ...


class Learner(Protocol):
    """One kind of model. Implementations import torch lazily and never touch Flask or Label Studio."""

    name: str

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raise BadInput, naming the preset or option, for what ``train`` would refuse. Imports no torch."""
        ...

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into the empty folder ``out`` (weights.safetensors, learner.json).

        Examples whose picture cannot be read or does not fit its masks are left out and named in the report.
        Raises BadInput for options and for examples without a mask, ModelError when no picture can be used.
        """
        ...

    def load(self, folder: Path, *, device: str = "auto") -> Predictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        ...

    def export(self, folder: Path, out: Path) -> Path:
        """Write the version in a form other programs load (TorchScript or ONNX); returns the file."""
        ...
