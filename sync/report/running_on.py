"""What computes here, and what a better choice would be: said when `up`, `serve` and `worker` start.

``python -m sync.report.running_on`` prints it for the settings of the environment, in a process of its own:
`up` itself loads no torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_backend.clicks.serving.auto_choice import choose
from ml_backend.clicks.serving.catalog import inspect_segmenter
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.errors import ModelError
from sync.settings import Settings, load_settings

__all__ = ["Machine", "look_at_machine", "running_on"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute with.

    ``gpu`` is the name of the GPU that torch can use, empty when there is none. ``idle_gpu``: the driver of a
    GPU is there, but this torch cannot use it. ``weights`` are the published weights that lie in the cache.
    """

    cores: int
    gpu: str
    idle_gpu: bool
    weights: tuple[str, ...]


def look_at_machine() -> Machine:
    """Ask torch. Takes some seconds the first time; downloads nothing."""
    import torch

    from ml_backend.learners.weights import cached_weights

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpu=gpu,
        idle_gpu=not gpu and shutil.which("nvidia-smi") is not None and Path("/dev/nvidia0").exists(),
        weights=cached_weights(),
    )


def running_on(settings: Settings, machine: Machine) -> list[str]:
    """Lines for people: device, learner and its weights, click segmenter; below them what would be better."""
    uses_gpu = bool(machine.gpu) and settings.device != "cpu"
    clicks, better_clicks = _clicks(settings)
    lines = [
        f"computes on the GPU {machine.gpu}" if uses_gpu else f"computes on the CPU ({machine.cores} cores)",
        f"learner {settings.learner}, preset {settings.preset}; published weights here: "
        + (", ".join(machine.weights) or "none"),
        clicks,
    ]
    better = [
        *_device(settings, machine, uses_gpu),
        *_weights(settings, machine),
        *better_clicks,
    ]
    return [*lines, *(f"better: {line}" for line in better)]


def _device(settings: Settings, machine: Machine, uses_gpu: bool) -> list[str]:
    if machine.idle_gpu:
        return ["there is a GPU that this torch cannot use: install a CUDA build of torch"]
    if machine.gpu and not uses_gpu:
        return [f"GROUNDSWELL_DEVICE=auto would use the GPU {machine.gpu}"]
    if uses_gpu and settings.preset == "light":
        return ["GROUNDSWELL_PRESET=full trains better models, and a GPU has the time for it"]
    return []


def _weights(settings: Settings, machine: Machine) -> list[str]:
    wanted = settings.learner_options.get("weights", "auto")
    if machine.weights or wanted not in ("auto", "cached"):
        return []
    text = "the first training downloads published weights" if wanted == "auto" else "there are none"
    return [
        f"no published weights are here: {text}, and starts from random ones where it cannot "
        "(slower, and worse with few pictures)"
    ]


def _clicks(settings: Settings) -> tuple[str, Sequence[str]]:
    """What answers clicks and why; what would be better."""
    name = settings.segmenter
    if name == AUTO:
        choice = choose(settings)
        return f"clicks by {choice.line}", choice.better
    # ``project`` is one of each project, so nothing is said of it here
    problem = "" if name == "project" else inspect_segmenter(name, settings).problem
    advice = "GROUNDSWELL_SEGMENTER=auto, the default, takes the best that is here"
    return (
        f"clicks by {name}" + (f", which is not ready: {problem}" if problem else ""),
        [advice] if problem or name == "classical" else [],
    )


def main() -> None:
    """Print the lines; nothing when the machine cannot be asked."""
    try:
        print("\n".join(running_on(load_settings(), look_at_machine())))
    except (ImportError, ModelError) as error:
        sys.exit(f"unknown: {error}")


if __name__ == "__main__":
    main()
