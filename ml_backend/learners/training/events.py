"""Training curves as TensorBoard events, where the package ``tensorboard`` is installed."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["EVENTS", "Events"]

log = logging.getLogger(__name__)

EVENTS = "events"
"""Name of the folder with the events of one run."""


class Events:
    """Writes scalars of a run to ``folder/events``. Does nothing without a folder or without TensorBoard.

    ``purge_step``: a run that goes on there hides what an earlier process wrote from this step on.
    """

    def __init__(self, folder: Path | None, purge_step: int = 0) -> None:
        self._writer: Any = None
        if folder is None or importlib.util.find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        purge = {"purge_step": purge_step} if purge_step else {}
        self._writer = SummaryWriter(str(folder / EVENTS), **purge)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
