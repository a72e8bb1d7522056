"""Find the task that shows a picture by the name that another tool has for it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from ml_backend.errors import BadInput
from sync.exchange.file_names import TaskPicture, file_names

__all__ = ["TaskNames"]

_UPLOAD_PREFIX: Final = re.compile(r"^[0-9a-f]{8}-(?=.)")


class TaskNames:
    """Tasks by the names of their pictures.

    A name fits a task when its last part is that of the picture, as given or as Label Studio stores it
    (without the digits that it puts before uploads, with what it leaves out of names left out). Where several
    tasks fit, the one that has the most folders in common with the name is meant.
    """

    def __init__(self, pictures: Iterable[TaskPicture]) -> None:
        held = list(pictures)
        self.name_of: Mapping[int, str] = file_names(held)
        self._tasks: dict[str, list[int]] = {}
        self._stems: dict[str, list[int]] = {}
        for one in held:
            last = PurePosixPath(self.name_of[one.task_id]).name
            stored = _last_part(one.address)
            for name in _plain(last, stored, _UPLOAD_PREFIX.sub("", stored)):
                self._tasks.setdefault(name, []).append(one.task_id)
                self._stems.setdefault(_stem(name), []).append(one.task_id)

    def __len__(self) -> int:
        return len(self.name_of)

    def find(self, name: str, *, no_suffix: bool = False) -> int:
        """The task of this picture; ``no_suffix``: the name lacks the ending of the file.

        Raises BadInput when no task shows it, or when several may be meant.
        """
        given = PurePosixPath(name.replace("\\", "/").removeprefix("file://"))
        last = _plain(unquote(given.name), given.name)
        among = self._stems if no_suffix else self._tasks
        tasks = sorted({task for one in last for task in among.get(one, ())})
        if not tasks:
            raise BadInput("no task of the project shows this picture", hint="Add it with --images FOLDER")
        if len(tasks) == 1:
            return tasks[0]
        folders = given.parts[:-1]
        shared = {task: _common(folders, PurePosixPath(self.name_of[task]).parts[:-1]) for task in tasks}
        best = [task for task in tasks if shared[task] == max(shared.values())]
        exact = [task for task in best if len(PurePosixPath(self.name_of[task]).parts) == len(given.parts)]
        best = exact if len(exact) == 1 else best
        if len(best) > 1:
            raise BadInput(
                f"{len(best)} tasks show a picture of this name: {', '.join(map(str, best[:3]))}",
                hint="Say which with the folders before its name",
            )
        return best[0]


def _last_part(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme == "data":
        return ""
    local = parse_qs(parts.query).get("d", [""])[0] if parts.path.endswith("/data/local-files/") else ""
    return PurePosixPath(local or unquote(parts.path)).name


def _plain(*names: str) -> set[str]:
    """File names as Label Studio stores them, also those whose accents are written as the other way round."""
    both = {form for name in names for form in (name, unicodedata.normalize("NFC", name))}
    return {re.sub(r"(?u)[^-\w.]", "", name.strip().replace(" ", "_")) for name in both} - {""}


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many folders two paths share, counted from the picture."""
    count = 0
    for left, right in zip(reversed(a), reversed(b), strict=False):
        if left != right:
            break
        count += 1
    return count
