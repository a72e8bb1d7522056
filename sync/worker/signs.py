"""Signs of life of workers: small files from which ``groundswell health worker`` tells whether one works.

Each worker keeps ``workers/<host>-<pid>.json`` in the data directory. A thread writes it every
``heartbeat_s`` seconds, so a worker that was killed or stopped falls silent. The thread alone would go on
when the work itself hangs. So the file also says when the work last moved: that of each kind for itself, as
one kind may hang while the other waits for something to do.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ml_backend.artifacts.files import write_atomic
from ml_backend.errors import StorageError
from sync.store.schedule import Kind
from sync.worker.observer import Observer

__all__ = ["Health", "SignsOfLife", "worker_health"]

_log = logging.getLogger(__name__)

FOLDER: Final = "workers"
_MISSED: Final = 3
"""signs of life that may be late before a worker counts as dead"""
_FORGET_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class _Work:
    """When work of one kind last moved, and at which project; None while it waits for something to do."""

    worked_at: float
    project: int | None


@dataclass(frozen=True, slots=True)
class _Sign:
    """A sign of life; ``work`` by kind. Times are seconds since 1970 by the clock of ``host``."""

    host: str
    pid: int
    every_s: float
    at: float
    work: dict[str, _Work]


_FORMAT = TypeAdapter(_Sign)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a worker of this machine works, and one line that says why (not)."""

    ok: bool
    line: str


class SignsOfLife(Observer):
    """Writes the file of this process; use as a context manager. The file goes when the worker ends."""

    def __init__(self, data_dir: Path, every_s: float, *, now: Callable[[], float] = time.time) -> None:
        host = socket.gethostname()
        self._path = data_dir / FOLDER / f"{re.sub('[^A-Za-z0-9.-]', '_', host)}-{os.getpid()}.json"
        self._host, self._every_s, self._now = host, every_s, now
        self._work: dict[str, _Work] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signs of life", daemon=True)

    def alive(self, kind: Kind, project_id: int | None) -> None:
        self._work[kind] = _Work(self._now(), project_id)

    def write(self) -> None:
        """Write one sign; a full disk is logged and stops nothing."""
        sign = _Sign(self._host, os.getpid(), self._every_s, self._now(), dict(self._work))
        try:
            write_atomic(self._path, json.dumps(asdict(sign)).encode())
        except (StorageError, OSError) as error:
            _log.warning("%s was not written: %s", self._path.name, error)

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.write()

    def __enter__(self) -> SignsOfLife:
        _forget_old(self._path.parent, self._now())
        self.write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)


def worker_health(
    data_dir: Path, *, stuck_s: float, anywhere: bool = False, now: Callable[[], float] = time.time
) -> Health:
    """Whether a worker works: of this machine, or with ``anywhere`` of any that shares the data directory.

    A worker counts as dead after three missed signs of life, as stuck when its work came to no boundary for
    ``stuck_s`` seconds. One that works is enough.
    """
    moment, host = now(), socket.gethostname()
    signs = [sign for sign in _signs(data_dir / FOLDER) if anywhere or sign.host == host]
    if not signs:
        return Health(
            False, f"no worker has started {'here' if anywhere else f'on {host}'}, or all have ended"
        )
    states = [_state(sign, moment, stuck_s) for sign in sorted(signs, key=lambda sign: -sign.at)]
    return next((state for state in states if state.ok), states[0])


def _state(sign: _Sign, now: float, stuck_s: float) -> Health:
    who = f"worker {sign.pid} on {sign.host}"
    silent = now - sign.at
    if silent > _MISSED * sign.every_s:
        return Health(False, f"{who} is dead or stopped: no sign of life for {silent:.0f} s")
    for kind, work in sorted(sign.work.items(), key=lambda entry: entry[1].worked_at):
        idle = now - work.worked_at
        if idle > stuck_s:
            where = f" at project {work.project}" if work.project is not None else ""
            return Health(False, f"{who} is stuck{where}: its {kind} jobs have not moved for {idle:.0f} s")
    busy = sorted({work.project for work in sign.work.values() if work.project is not None})
    doing = " and ".join(f"works on project {project}" for project in busy) or "waits for the next look"
    return Health(True, f"{who} {doing}")


def _signs(folder: Path) -> list[_Sign]:
    found = []
    for path in sorted(folder.glob("*.json")) if folder.exists() else []:
        try:
            found.append(_FORMAT.validate_json(path.read_bytes()))
        except FileNotFoundError:  # it ended just now
            continue
        except (OSError, ValidationError) as error:
            _log.warning("%s cannot be read: %s", path, error)
    return found


def _forget_old(folder: Path, now: float) -> None:
    """Delete files of workers that were killed long ago."""
    for path in folder.glob("*.json") if folder.exists() else []:
        try:
            if now - path.stat().st_mtime > _FORGET_S:
                path.unlink()
        except OSError:  # another worker was faster, or it is another user's
            continue
