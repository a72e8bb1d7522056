"""What every training begins with: seed, threads and device of torch."""

from __future__ import annotations

import torch

from ml_backend.devices import resolve_device
from ml_backend.learners.base import TrainSpec

__all__ = ["begin"]


def begin(spec: TrainSpec, *, threads: int) -> torch.device:
    """The device to train on. ``threads`` of torch, 0 = as they are. Raises ModelError for an unknown
    device, or one that is not there."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(spec.seed)
    return torch.device(resolve_device(spec.device))
