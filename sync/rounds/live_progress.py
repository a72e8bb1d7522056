"""How far the present look at a project is, in a small file that people's pages read.

The worker writes ``projects/<id>/progress.json`` at most twice a second. A look that takes less than half a
second leaves no trace, so an idle project costs no writes. The file is not fenced, since a training must not
wait for the database to tell how far it is. So a worker that was killed leaves it behind, and one that lost
its lease may overwrite it: readers believe only what the present holder of the lease wrote.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ml_backend.artifacts.files import write_atomic
from ml_backend.errors import StorageError

__all__ = ["LiveProgress", "ProgressFile", "read_progress"]

_log = logging.getLogger(__name__)
_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class LiveProgress:
    """State of a look.

    Attributes
    ----------
    worker : who looks
    step : what it does now; empty when the look is over
    share : part of the step that is done, 0..1
    line : one line about it
    step_began, look_began, at : seconds since 1970, by the worker's clock
    """

    worker: str
    step: str
    share: float
    line: str
    step_began: float
    look_began: float
    at: float


_FORMAT = TypeAdapter(LiveProgress)


class ProgressFile:
    """Keeps the file of one look; ``report`` has the form of ``sync.rounds.progress.Report``.

    ``now`` is the wall clock in seconds since 1970.
    """

    def __init__(self, path: Path, worker: str, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._worker = worker
        self._now = now
        self._began = self._step_began = self._written = now()
        self._step = ""
        self._has_written = False

    def report(self, step: str, share: float, line: str) -> None:
        """Note the progress of a step; most calls write nothing."""
        now = self._now()
        if step != self._step:
            self._step, self._step_began = step, now
        if now - self._written >= _EVERY_S:
            self._write(LiveProgress(self._worker, step, share, line, self._step_began, self._began, now))

    def close(self) -> None:
        """Note that the look is over, unless it was so short that nothing was written."""
        if self._has_written:
            now = self._now()
            self._write(LiveProgress(self._worker, "", 1.0, "", now, self._began, now))

    def _write(self, state: LiveProgress) -> None:
        self._written, self._has_written = state.at, True
        try:
            write_atomic(self._path, json.dumps(asdict(state)).encode())
        except (StorageError, OSError) as error:  # a page that shows nothing must not stop the work
            _log.warning("%s was not written: %s", self._path.name, error)


def read_progress(path: Path) -> LiveProgress | None:
    """What the last look wrote; None when it wrote nothing, or nothing that can be read."""
    try:
        return _FORMAT.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None
