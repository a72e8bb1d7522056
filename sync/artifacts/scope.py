"""Which files of a project all machines share, by their paths relative to the project's folder.

What can be made again quickly, what one process says about itself, and what is being written stays local.
Everything that this module does not know is shared, so that a new kind of file is never forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, Literal

__all__ = ["NAMES", "Area", "files_below", "is_shared", "lies_in", "lies_inside"]

Area = Literal["look", "training", "all"]
"""what a job may publish of what it finds, see ``lies_in``"""

_LOCAL: Final = frozenset(
    {
        "alike",
        "crops",
        "dirty",
        "pages",
        "preview.json",
        "progress.json",
        "training.json",
        "wanted_version.json",
    }
)
NAMES: Final = {"current": "models", "clicks/current": "clicks", "clicks/ranking": "clicks"}
"""files that say what serves, and the folder of the versions that they name; they change in one transaction
with their pointers and in no other way"""
_LONGEST_BYTES: Final = 500
"""A row of the manifest holds as much, and object stores hardly more."""
_OF_TRAINING: Final = frozenset({"models", "history.csv"})
_OF_CLICKS: Final = "clicks"


def is_shared(path: PurePosixPath) -> bool:
    """Whether a file of a project's folder belongs to all machines.

    Names that are no text, or that are too long, stay here: no part of this program makes any.
    """
    parts = path.parts
    return (
        lies_inside(path)
        and parts[0] not in _LOCAL
        and parts[:2] != ("mistakes", "folds")
        and _can_be_noted(path.as_posix())
    )


def lies_inside(path: PurePosixPath) -> bool:
    """Whether a path leads to a place in the folder, and to none that is for what is being written."""
    return bool(path.parts) and not any(part.startswith((".", "/")) for part in path.parts)


def _can_be_noted(path: str) -> bool:
    try:
        return len(path.encode()) <= _LONGEST_BYTES
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False


def lies_in(area: Area, path: PurePosixPath) -> bool:
    """Whether a job publishes this file when it only finds it at its end.

    Jobs of a project go on side by side and write different files. Files of click networks are published by
    their training alone, one by one, as it finishes them.
    """
    if area == "all":
        return True
    if path.parts[0] == _OF_CLICKS:
        return False
    return (path.parts[0] in _OF_TRAINING) == (area == "training")


def files_below(root: Path, name: str = "") -> Iterator[tuple[PurePosixPath, os.stat_result]]:
    """The shared files that lie in a project's folder, or in the folder ``name`` of it, with what the system
    says of them.

    Links are followed: people move ``models`` to another disk.
    """
    yield from _walk(root / name, PurePosixPath(name), (os.path.realpath(root),))


def _walk(
    folder: Path, name: PurePosixPath, entered: tuple[str, ...]
) -> Iterator[tuple[PurePosixPath, os.stat_result]]:
    """``entered``: real paths of the first folder, and of those that links led to on the way."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # deleted meanwhile
    for entry in entries:
        inner = name / entry.name
        if not is_shared(inner):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), inner, entered)
            continue
        if not os.path.exists(entry.path):
            continue  # a link that leads nowhere, or deleted meanwhile
        if entry.is_dir():
            place = os.path.realpath(entry.path)
            if not any(f"{above}/".startswith(f"{place}/") for above in entered):  # else it goes in circles
                yield from _walk(Path(entry.path), inner, (*entered, place))
            continue
        try:
            stat = entry.stat()
        except FileNotFoundError:
            continue
        if entry.is_file():
            yield inner, stat
