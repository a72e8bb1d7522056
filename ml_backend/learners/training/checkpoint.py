"""Checkpoints of a training, from which it goes on after a kill: one safetensors file, no pickle.

The file holds tensors of the model, its moving average, the best weights so far and the optimiser, and in its
header a JSON text with the rest. One file, written under another name and renamed, is never half there.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ml_backend.artifacts.files import write_atomic
from ml_backend.learners.training.settings import LoopSettings

__all__ = ["Checkpoint", "fingerprint", "load_checkpoint", "restore_optimiser", "save_checkpoint"]

log = logging.getLogger(__name__)

_FILE = "checkpoint.safetensors"
_GROUPS = ("model", "average", "best")


@dataclass(slots=True)
class Checkpoint:
    """Where a training stands after ``step`` steps.

    ``tensors``: state dicts ``model``, ``average`` and ``best`` (those that exist); ``optimiser``: its state
    per parameter, by number; ``facts``: JSON-ready values of the loop.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    optimiser: dict[int, dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)


def fingerprint(model: nn.Module, settings: LoopSettings, seed: int) -> str:
    """Equal for two trainings that may share a checkpoint: same network, settings and seed."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    chosen = dataclasses.asdict(settings)
    return json.dumps({"shapes": shapes, "settings": chosen, "seed": seed}, sort_keys=True)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, owner: str) -> None:
    """Replace the checkpoint of ``folder``. Raises StorageError when the disk is full."""
    tensors = {
        f"{group}/{name}": _detached(value)
        for group, state in checkpoint.tensors.items()
        for name, value in state.items()
    }
    plain: dict[str, dict[str, Any]] = {}
    for number, state in checkpoint.optimiser.items():
        plain[str(number)] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{number}/{name}"] = _detached(value)
            else:
                plain[str(number)][name] = value
    header = {"step": checkpoint.step, "facts": checkpoint.facts, "optimiser": plain, "owner": owner}
    write_atomic(folder / _FILE, save(tensors, {"groundswell": json.dumps(header)}))


def load_checkpoint(folder: Path, owner: str) -> Checkpoint | None:
    """The checkpoint of ``folder`` that ``owner`` (see ``fingerprint``) wrote; None when there is none.

    One that is damaged or belongs to another training is logged and ignored: training starts anew.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads(file.metadata()["groundswell"])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["owner"] != owner:
            log.warning("%s belongs to another training and is ignored", path)
            return None
        return _parsed(header, values)
    except Exception as error:  # safetensors' own error has no stable name; whatever it is, we start anew
        log.warning("%s is damaged and is ignored: %s", path, error)
        return None


def restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Give the optimiser its state back; its groups keep their settings."""
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": {k: dict(v) for k, v in state.items()}, "param_groups": groups})


def _parsed(header: Mapping[str, Any], values: Mapping[str, Tensor]) -> Checkpoint:
    tensors: dict[str, dict[str, Tensor]] = {}
    optimiser = {int(number): dict(state) for number, state in header["optimiser"].items()}
    for name, value in values.items():
        group, _, rest = name.partition("/")
        if group in _GROUPS:
            tensors.setdefault(group, {})[rest] = value
        else:
            number, _, key = rest.partition("/")
            optimiser.setdefault(int(number), {})[key] = value
    return Checkpoint(int(header["step"]), tensors, optimiser, dict(header["facts"]))


def _detached(value: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with no other tensor, as the format demands."""
    return value.detach().to("cpu", copy=True).contiguous()
