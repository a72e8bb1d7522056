"""What this machine holds of a project's shared files: a note beside them, and locks between processes.

``projects/<id>/.held.json`` says for each file which object it is a copy of, and what the file looked like
then; so nobody has to read the files to know. ``.held.mark`` names the state of the manifest that was fetched
whole. Processes of one machine take turns with ``flock``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_backend.artifacts.files import read_json, storage_errors, write_atomic

__all__ = ["Held", "HeldFile"]


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A local copy: the object that it is a copy of, bytes, and time of the file's last change."""

    key: str
    size: int
    mtime_ns: int


class Held:
    """The note of one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._note = root / ".held.json"
        self._mark = root / ".held.mark"

    def load(self) -> dict[str, HeldFile]:
        """Local copies by path; none when the note is lost or damaged: the files are then compared anew."""
        try:
            return {path: HeldFile(*row) for path, row in read_json(self._note).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            self._mark.unlink(missing_ok=True)
            return {}

    def save(self, held: dict[str, HeldFile]) -> None:
        """Replace the note; call it under the lock ``files``. Raises StorageError."""
        rows = {path: [file.key, file.size, file.mtime_ns] for path, file in held.items()}
        write_atomic(self._note, json.dumps(rows, separators=(",", ":")).encode())

    def forget(self) -> None:
        """Drop the note: no file counts as a copy any more, so none goes because the manifest lacks it."""
        if self._note.exists():
            with self.lock("files"), storage_errors(self._note):
                self._note.unlink(missing_ok=True)

    @property
    def mark(self) -> str | None:
        """The state that was fetched whole; None when none was, or when the note is lost."""
        if not self._note.exists():
            return None
        try:
            return self._mark.read_text()
        except (FileNotFoundError, ValueError):  # lost or damaged
            return None

    def set_mark(self, mark: str) -> None:
        """Note that a state was fetched whole. Raises StorageError."""
        write_atomic(self._mark, mark.encode())

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait until no other thread or process of this machine is inside. Raises StorageError."""
        path = self._root / f".lock-{name}"
        with storage_errors(path):
            self._root.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
