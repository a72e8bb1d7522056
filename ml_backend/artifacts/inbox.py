"""The inbox of the worker: a file per project that says "look again".

A webhook only leaves a line here. Nothing is lost when lines are: the worker compares states and looks at
every project from time to time anyway (rule 1: level, not edge).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ml_backend.artifacts.files import storage_errors
from ml_backend.artifacts.paths import ProjectPaths

__all__ = ["Notice", "last_notice", "mark_dirty", "read_notices"]

_MAX_BYTES: Final = 64 * 1024
_ACTION_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class Notice:
    """One line of the inbox."""

    at: datetime
    action: str


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
    """When a project was last marked, in seconds since 1970; None when never."""
    try:
        return ProjectPaths(data_dir, project_id).dirty.stat().st_mtime
    except FileNotFoundError:
        return None


def read_notices(data_dir: Path, project_id: int) -> list[Notice]:
    """The lines that are there, oldest first; damaged ones are left out."""
    try:
        lines = ProjectPaths(data_dir, project_id).dirty.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        stamp, _, action = line.partition(" ")
        try:
            found.append(Notice(datetime.fromisoformat(stamp), action))
        except ValueError:
            continue
    return found
