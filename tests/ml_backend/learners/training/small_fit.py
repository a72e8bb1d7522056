"""A network of milliseconds and a fit of it, also as a program: ``python -m … FOLDER MARK SECONDS_PER_STEP``.

The program writes the number of the step it comes to into MARK, so that a test can kill it in the middle.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ml_backend.learners.training.loop import FitResult, fit
from ml_backend.learners.training.settings import LoopSettings

CPU = torch.device("cpu")
BASE: dict[str, Any] = {"iterations": 40, "lr": 0.05, "clip": 1.0, "amp": "off", "checkpoint_s": 0.0}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def batch(step: int) -> tuple[Tensor, Tensor]:
    """A plane with its values; the same step gives the same points."""
    points = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
    return points, points @ torch.tensor([[1.0], [-2.0], [0.5]])


def loss_of(model: nn.Module, samples: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
    return {"squares": ((model(samples[0]) - samples[1]) ** 2).mean()}


def run(
    folder: Path | None = None,
    *,
    next_batch: Callable[[int], tuple[Tensor, Tensor]] = batch,
    validate: Callable[[nn.Module], float] | None = None,
    lines: list[str] | None = None,
    **changes: Any,
) -> tuple[nn.Module, FitResult]:
    model = network()
    result = fit(
        model,
        next_batch,
        loss_of,
        LoopSettings(**{**BASE, **changes}),
        device=CPU,
        seed=3,
        progress=lambda share, line: (lines if lines is not None else []).append(line),
        folder=folder,
        validate=validate,
    )
    return model, result


def main(folder: Path, mark: Path, pause_s: float) -> None:
    def slow(step: int) -> tuple[Tensor, Tensor]:
        mark.write_text(str(step))
        time.sleep(pause_s)
        return batch(step)

    model, result = run(folder, next_batch=slow, ema=0.9)
    save_file(dict(model.state_dict()), folder / "result.safetensors")
    (folder / "resumed_from").write_text(str(result.resumed_from))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
