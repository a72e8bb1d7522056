"""The inbox of the worker: a file per project that says "look again".

A webhook only adds a line ``<time> <action>`` here, for people to read; the worker uses only the time of the
file. The worker also looks at every project now and then, so a lost line causes only a delay.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ml_backend.artifacts.files import storage_errors
from ml_backend.artifacts.paths import ProjectPaths

__all__ = ["last_notice", "mark_dirty"]

_MAX_BYTES: Final = 64 * 1024
_ACTION_CHARS: Final = 60


def mark_dirty(data_dir: Path, project_id: int, action: str) -> None:
    """Note that something happened in a project. One small append; the file stays below 64 kB."""
    path = ProjectPaths(data_dir, project_id).dirty
    word = "".join(c if c.isalnum() or c == "_" else "_" for c in action[:_ACTION_CHARS]) or "UNKNOWN"
    line = f"{datetime.now(UTC).isoformat()} {word}\n".encode()
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # one write with O_APPEND: lines of several threads and processes do not mix
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.fstat(handle).st_size + len(line) > _MAX_BYTES:
                os.ftruncate(handle, 0)
            os.write(handle, line)
        finally:
            os.close(handle)


def last_notice(data_dir: Path, project_id: int) -> float | None:
    """When a project was last marked, in seconds since 1970; None when never, or when nobody can tell."""
    try:
        return ProjectPaths(data_dir, project_id).dirty.stat().st_mtime
    except OSError:  # never marked; or a folder that cannot be read, of which a look says more
        return None
