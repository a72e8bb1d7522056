"""What the backend said about its segmenter when it started: a file in the data directory, for ``status``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ml_backend.artifacts.files import write_json
from ml_backend.errors import StorageError
from ml_backend.settings import BackendSettings

__all__ = ["SegmenterNote", "read_note", "write_note"]

log = logging.getLogger(__name__)


class SegmenterNote(BaseModel):
    """``line``: what answers clicks and why. ``better``: what a better choice would be, a line each."""

    line: str
    better: tuple[str, ...] = ()


def write_note(settings: BackendSettings, line: str, better: Sequence[str] = ()) -> None:
    """Leave the note, where there is a data directory. One that cannot be written is logged: clicks work
    without it.
    """
    if not settings.data_dir.is_dir():
        return
    note = SegmenterNote(line=line, better=tuple(better))
    try:
        write_json(_path(settings.data_dir), note.model_dump(mode="json"))
    except StorageError as error:
        log.warning("%s", error)


def read_note(data_dir: Path) -> SegmenterNote | None:
    """The note; None when no backend left one that can be read."""
    try:
        return SegmenterNote.model_validate_json(_path(data_dir).read_bytes())
    except (OSError, ValidationError):
        return None


def _path(data_dir: Path) -> Path:
    return data_dir / "segmenter.json"
