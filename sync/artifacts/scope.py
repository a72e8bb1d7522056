"""Which files of a project all machines share, by their paths relative to the project's folder.

What can be made again quickly, what one process says about itself, and what is being written stays local.
Everything that this module does not know is shared, so that a new kind of file is never forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, Literal

__all__ = ["NAMES", "Area", "files_below", "is_shared", "lies_in"]

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
NAMES: Final = ("current", "clicks/current", "clicks/ranking")
"""files that say what serves; they change in one transaction with their pointers and in no other way"""
_OF_TRAINING: Final = frozenset({"models", "history.csv"})
_OF_CLICKS: Final = "clicks"


def is_shared(path: PurePosixPath) -> bool:
    """Whether a file of a project's folder belongs to all machines."""
    parts = path.parts
    return (
        bool(parts)
        and not any(part.startswith(".") for part in parts)
        and parts[0] not in _LOCAL
        and parts[:2] != ("mistakes", "folds")
    )


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


def files_below(root: Path) -> Iterator[tuple[PurePosixPath, os.stat_result]]:
    """The shared files that lie in a project's folder, with what the system says of them."""
    yield from _walk(root, PurePosixPath())


def _walk(folder: Path, name: PurePosixPath) -> Iterator[tuple[PurePosixPath, os.stat_result]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # deleted meanwhile
    for entry in entries:
        inner = name / entry.name
        if not is_shared(inner):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), inner)
            continue
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if entry.is_file(follow_symlinks=False):
            yield inner, stat
