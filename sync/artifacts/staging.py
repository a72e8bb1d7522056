"""Unfinished files: where a fetch puts them, and how those that a killed process left are removed.

A fetch keeps its files in ``projects/<id>/.fetch``, under a lock that ends with its process. So the next
fetch knows that whatever lies there belongs to nobody. Other files are written beside their places
(``ml_backend.artifacts.files``), under names that hold the number of their process. They go a day after their
last change, and never while a process of that number runs.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["clear_fetched", "remove_abandoned", "remove_whole", "staged_fetch"]

_log = logging.getLogger(__name__)
_FETCHED: Final = ".fetch"
_STAGED: Final = re.compile(r"\..+\.(\d+)\.[0-9a-f]{8}")
_KEPT_S: Final = 24 * 3600.0
_STARTED: Final = time.time()


def staged_fetch(root: Path) -> Path:
    """A new name for a file that is being fetched into the folder ``root``."""
    return root / _FETCHED / secrets.token_hex(8)


def clear_fetched(root: Path) -> None:
    """Remove the files of fetches. The caller holds the lock of fetches, so no other one is under way."""
    shutil.rmtree(root / _FETCHED, ignore_errors=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder; nobody sees a part of it, and ``remove_abandoned`` finds what a kill leaves."""
    going = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    os.replace(folder, going)
    shutil.rmtree(going)


def remove_abandoned(folder: Path) -> int:
    """Remove what processes that are gone were writing anywhere below ``folder``; how many files and folders.

    What cannot be removed stays.
    """
    removed = 0
    for path, process in _staged(folder):
        try:
            if time.time() - _changed(path) < _KEPT_S or _may_run(process, _changed(path)):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue  # it was finished or removed meanwhile
        except OSError as error:
            _log.warning("%s was left by a killed process and cannot be removed: %s", path, error)
            continue
        removed += 1
    if removed:
        _log.info("%d unfinished files of killed processes removed below %s", removed, folder)
    return removed


def _staged(folder: Path) -> Iterator[tuple[Path, int]]:
    for name, folders, files in os.walk(folder):
        for entry in [*folders, *files]:
            if found := _STAGED.fullmatch(entry):
                yield Path(name, entry), int(found[1])
        folders[:] = [entry for entry in folders if not _STAGED.fullmatch(entry)]


def _changed(path: Path) -> float:
    """When a file, or anything in a folder, was changed last."""
    return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))


def _may_run(process: int, changed: float) -> bool:
    """Whether a process of this number runs. In a container each worker has the number of the one before."""
    if process == os.getpid():
        return changed >= _STARTED
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
