"""The files of a model version: weights, and a description that says which learner made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.artifacts.files import read_json
from ml_backend.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CONFIG", "WEIGHTS", "load_weights", "needs_files_elsewhere", "read_description"]

WEIGHTS, CONFIG = "weights.safetensors", "learner.json"


def read_description(folder: Path, learner: str) -> dict[str, Any]:
    """What ``learner`` wrote about its version. Raises ModelError where there is nothing, or something of
    another learner."""
    try:
        description = read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no model: {error}", hint="Train again") from error
    made_by = description.get("learner") if isinstance(description, dict) else None
    if made_by != learner:
        raise ModelError(f"{folder} was made by learner {made_by!r}, not {learner!r}")
    return dict(description)


def needs_files_elsewhere(folder: Path) -> bool:
    """Whether a version cannot be loaded from its folder alone: it names weights on this machine.

    So it is with versions that were made without a training, and with adopted ones of them.
    """
    try:
        description = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return False  # a learner with files of its own
    if not isinstance(description, dict):
        return False
    made_by = {description.get("learner"), description.get("of")}
    made_by |= {part.get("learner") for part in description.get("parts", ()) if isinstance(part, dict)}
    return bool(made_by & {"zero-shot", "everything"})


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights of a version. Raises ModelError when they cannot be read or do not fit."""
    from ml_backend.learners.weights import read_weights

    try:
        model.load_state_dict(read_weights(folder / WEIGHTS))
    except RuntimeError as error:
        raise ModelError(f"the weights in {folder} do not fit their description") from error
