"""The model that makes the proposals in a click evaluation; trained on the training images if needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_backend.artifacts.files import publish_dir, read_json
from ml_backend.clicks.evaluation.experiment import ClickSplit, predict_proposals
from ml_backend.errors import BadInput, ModelError
from ml_backend.instances import Rle
from ml_backend.learners.base import Predictor, Progress, TrainSpec
from ml_backend.learners.registry import get_learner
from ml_backend.learners.training_job import run_training

__all__ = ["load_proposal_model", "proposals_of_model", "train_proposal_model"]

_DESCRIPTION = "learner.json"


def train_proposal_model(
    split: ClickSplit,
    labels: Sequence[str],
    folder: Path,
    progress: Progress,
    *,
    learner: str = "maskrcnn",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Train ``learner`` at its defaults for CPUs on the training images only, into ``folder``, which appears
    complete or not at all. Raises BadInput when there is nothing to train on, ModelError when it fails.
    """
    if not split.train:
        raise BadInput(
            "a model that proposes must be trained on something",
            field="train_fraction",
            hint="For example 0.5, or give --proposals or a trained --model",
        )
    spec = TrainSpec(
        tuple(labels), tuple(image.example() for image in split.train), (), seed=seed, options=options or {}
    )
    with publish_dir(folder) as staging:
        run_training(learner, spec, staging, progress)


def load_proposal_model(folder: Path) -> Predictor:
    """The model version in ``folder``, made by any learner. Raises ModelError when there is none."""
    try:
        learner = str(read_json(folder / _DESCRIPTION)["learner"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no model version in {folder}", field="model") from error
    return get_learner(learner).load(folder)


def proposals_of_model(
    split: ClickSplit,
    labels: Sequence[str],
    folder: Path,
    progress: Progress,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[int, list[Rle]]:
    """Masks that the model in ``folder`` finds on the test images, by image id. The model is trained first if
    the folder does not exist or is empty.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # a version appears by rename
    if not folder.exists():
        train_proposal_model(split, labels, folder, progress, options=options, seed=seed)
    return predict_proposals(load_proposal_model(folder), split.test)
