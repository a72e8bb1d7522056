"""What a round has sent: the digest of every prediction that Label Studio holds of it, by version and task.

``rounds/<n>/pushed.json`` holds all of it; it survives a rebuild of the store. While a push is under way,
each chunk adds a line to ``pushed.jsonl`` instead, so that a note costs as much as the chunk and not as much
as everything that was sent before. The lines are read on top of the file; at the end of the push both become
one file again. Reading a line twice gives the same, so a kill anywhere in between does no harm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_backend.artifacts.files import Guard, read_json, storage_errors, write_json
from sync.rounds.push_plan import Shown

__all__ = ["load_pushed", "note_pushed", "save_pushed"]


def load_pushed(folder: Path) -> dict[str, dict[int, Shown]]:
    """What was sent in the round of this folder, by version and task; empty when nothing was noted."""
    try:
        stored: Mapping[str, Mapping[str, Any]] = read_json(folder / "pushed.json")
    except FileNotFoundError:
        stored = {}
    held = {version: _shown(rows) for version, rows in stored.items()}
    for line in _lines(folder / "pushed.jsonl"):
        for version, rows in line.items():
            held.setdefault(version, {}).update(_shown(rows))
    return held


def note_pushed(folder: Path, version: str, rows: Mapping[int, Shown], *, guard: Guard) -> None:
    """Note, durably, what some tasks hold now. Raises StorageError, and what ``guard`` raises."""
    path = folder / "pushed.jsonl"
    text = json.dumps({version: _rows(rows)}, separators=(",", ":")) + "\n"
    with guard(), storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            # a line that a kill cut short must not join with this one
            file.write(b"\n" * (file.tell() > 0) + text.encode())
            file.flush()
            os.fsync(file.fileno())


def save_pushed(folder: Path, held: Mapping[str, Mapping[int, Shown]], *, guard: Guard) -> None:
    """Make one file of ``held``, all that was sent. Raises StorageError, and what ``guard`` raises."""
    write_json(
        folder / "pushed.json", {version: _rows(shown) for version, shown in held.items()}, guard=guard
    )
    with guard(), storage_errors(folder):
        (folder / "pushed.jsonl").unlink(missing_ok=True)


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
