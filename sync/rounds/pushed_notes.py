"""What a round has sent: the digest of every prediction that Label Studio holds of it, by version and task.

``rounds/<n>/pushed.json`` holds all of it; it survives a rebuild of the store. While a push is under way,
each chunk makes a file ``pushed/<number>.json`` instead, so that a note costs as much as the chunk and not as
much as everything that was sent before. They are read on top of the first, in their order; at the end of the
push all become one file again. Reading one twice gives the same, so a kill anywhere in between does no harm.
Earlier releases added lines to ``pushed.jsonl``; they are read as well.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ml_backend.artifacts.files import Guard, read_json, storage_errors, write_atomic, write_json
from sync.rounds.push_plan import Shown

__all__ = ["load_pushed", "note_pushed", "save_pushed"]

_CHUNKS: Final = "pushed"


def load_pushed(folder: Path) -> dict[str, dict[int, Shown]]:
    """What was sent in the round of this folder, by version and task; empty when nothing was noted."""
    try:
        stored: Mapping[str, Mapping[str, Any]] = read_json(folder / "pushed.json")
    except FileNotFoundError:
        stored = {}
    held = {version: _shown(rows) for version, rows in stored.items()}
    for part in (*_lines(folder / "pushed.jsonl"), *map(read_json, _chunks(folder))):
        for version, rows in part.items():
            held.setdefault(version, {}).update(_shown(rows))
    return held


def note_pushed(folder: Path, version: str, rows: Mapping[int, Shown], *, guard: Guard) -> None:
    """Note, durably, what some tasks hold now. Raises StorageError, and what ``guard`` raises."""
    number = 1 + max((int(path.stem) for path in _chunks(folder)), default=0)
    text = json.dumps({version: _rows(rows)}, separators=(",", ":"))
    write_atomic(folder / _CHUNKS / f"{number:08d}.json", text.encode(), guard=guard)


def save_pushed(folder: Path, held: Mapping[str, Mapping[int, Shown]], *, guard: Guard) -> None:
    """Make one file of ``held``, all that was sent. Raises StorageError, and what ``guard`` raises."""
    write_json(
        folder / "pushed.json", {version: _rows(shown) for version, shown in held.items()}, guard=guard
    )
    chunks, lines = folder / _CHUNKS, folder / "pushed.jsonl"
    if chunks.exists():
        away = folder / f".{_CHUNKS}.{os.getpid()}.{secrets.token_hex(4)}"
        with guard(chunks), storage_errors(chunks):
            os.replace(chunks, away)  # all at once: a kill must not leave a part of them
        shutil.rmtree(away)
    if lines.exists():
        with guard(lines), storage_errors(lines):
            lines.unlink()


def _chunks(folder: Path) -> list[Path]:
    return sorted((folder / _CHUNKS).glob("[!.]*.json"))


def _lines(path: Path) -> list[Mapping[str, Mapping[str, Any]]]:
    """Whole lines of the file; one that a kill cut short is left out: its chunk counts as not noted."""
    try:
        texts = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for text in filter(None, texts):
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def _shown(rows: Mapping[str, Any]) -> dict[int, Shown]:
    return {int(task): Shown(*digests) for task, digests in rows.items()}


def _rows(shown: Mapping[int, Shown]) -> dict[str, list[str]]:
    return {str(task): [show.masks, show.bounds] for task, show in shown.items()}
