"""File names of the pictures of an export: paths relative to the folder that a person gave.

A COCO reader joins ``file_name`` to a folder of images, so each name must be a relative path, and no two
pictures may share one. Disks of macOS and Windows take ``A.jpg`` and ``a.jpg`` for one name, and do not tell
an accent from a letter with an accent: such names count as one here, on every machine, so that an export can
be copied anywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Final
from unicodedata import category, normalize
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

__all__ = ["OtherEndings", "TaskPicture", "file_names"]

_LOCAL_FILES = "/data/local-files"
_UPLOAD = re.compile(r"/data/upload/\d+/(?P<file>[^/]+)$")
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
_LONGEST: Final = 240
"""bytes of a part of a path: file systems hold 255, and other endings may be added"""
_NO_TEXT: Final = ("Cc", "Cs")
"""categories of characters that no name should have: control characters, halves of pairs"""


@dataclass(frozen=True, slots=True)
class TaskPicture:
    """The picture of one task.

    ``path`` is the path noted when the task was made, empty for tasks made by other means; ``address`` is
    the value of the image tag as Label Studio stores it.
    """

    task_id: int
    path: str
    address: str


def file_names(pictures: Sequence[TaskPicture]) -> dict[int, str]:
    """A distinct relative path (with ``/``) for the picture of each task, by task id.

    The noted path is taken where there is one. Else the name follows from the address:

    * served files and files on disk: the path below the folder that all of them have in common,
    * uploads: the file name without the eight digits that Label Studio puts before it,
    * web and bucket addresses: the path without host and query.

    Where two pictures would get one name, or names that differ in case only, uploads keep their digits and
    web pictures get their host in front. A picture that stands in several tasks keeps its name in the first;
    the name of the others begins with ``task-<id>/``.
    """
    names = {one.task_id: _inside(one.path) for one in pictures}
    unnamed = [one for one in pictures if not names[one.task_id]]
    on_disk = {one.task_id: path for one in unnamed if (path := _path_on_disk(one.address)) is not None}
    root = _common_folder(list(on_disk.values()))
    for task, path in on_disk.items():
        names[task] = _inside(path.relative_to(root).as_posix())
    others = [one for one in unnamed if one.task_id not in on_disk]
    for name_of in (_short_name, _long_name):
        _name_where_free(names, others, name_of)
    return _made_distinct(names)


class OtherEndings:
    """The names with another ending (``.png``), by task: distinct. Where two would be one, it is added.

    Names are made when they are asked for: what is kept does not grow with their number.
    """

    def __init__(self, names: Mapping[int, str], ending: str) -> None:
        self._names, self._ending, self._always = names, ending, False
        self._twice = _twice(map(self._short, names.values()))
        if self._twice:  # a.jpg, a.bmp and a.jpg.tif
            self._always = bool(_twice(self[task] for task in names))

    def __getitem__(self, task: int) -> str:
        name = self._names[task]
        short = self._short(name)
        return f"{name}{self._ending}" if self._always or _on_disk(short) in self._twice else short

    def _short(self, name: str) -> str:
        return str(PurePosixPath(name).with_suffix(self._ending))


def _on_disk(name: str) -> int:
    """A number of 64 bits that is the same for names that are one on some disk."""
    folded = normalize("NFC", normalize("NFC", name).casefold())
    return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=8).digest(), "big")


def _twice(names: Iterable[str]) -> set[int]:
    """``_on_disk`` of the names that several have."""
    numbers, count = np.unique(np.fromiter(map(_on_disk, names), np.uint64), return_counts=True)
    return set(numbers[count > 1].tolist())


def _name_where_free(
    names: dict[int, str], pictures: Sequence[TaskPicture], name_of: Callable[[str], str]
) -> None:
    """Name those pictures that have no name yet, where no other picture has or would get that name."""
    wanted = {one.task_id: name_of(one.address) for one in pictures if not names[one.task_id]}
    twice = _twice(chain(wanted.values(), (name for name in names.values() if name)))
    is_last = name_of is _long_name
    names.update({task: name for task, name in wanted.items() if is_last or _on_disk(name) not in twice})


def _made_distinct(names: dict[int, str]) -> dict[int, str]:
    for task, name in names.items():
        names[task] = name or f"task-{task}"
    if not _twice(names.values()):
        return names
    found: dict[int, str] = {}
    taken: set[int] = set()
    for task, distinct in sorted(names.items()):
        while _on_disk(distinct) in taken:
            distinct = f"task-{task}/{distinct}"
        taken.add(_on_disk(distinct))
        found[task] = distinct
    return found


def _path_on_disk(address: str) -> PurePosixPath | None:
    """The path of a picture that is served from a folder or read from disk, None for other addresses."""
    parts = urlsplit(address)
    if parts.path.rstrip("/").endswith(_LOCAL_FILES):
        return PurePosixPath("/" + _inside(parse_qs(parts.query).get("d", [""])[0]))
    if address.startswith("/") and not _UPLOAD.search(parts.path):
        return PurePosixPath("/" + _inside(address))
    return None


def _common_folder(paths: Sequence[PurePosixPath]) -> PurePosixPath:
    if not paths:
        return PurePosixPath("/")
    folders = [path.parent.parts for path in paths]
    common = []
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return PurePosixPath(*common)


def _short_name(address: str) -> str:
    """The path of a web picture; the name of an uploaded file as the person called it."""
    path = unquote(urlsplit(address).path)
    upload = _UPLOAD.search(path)
    return _UPLOAD_PREFIX.sub("", upload["file"]) if upload else _inside(_web_path(address))


def _long_name(address: str) -> str:
    """A name for pictures whose short names are alike: with the digits, or with the host."""
    upload = _UPLOAD.search(unquote(urlsplit(address).path))
    return upload["file"] if upload else _inside(f"{urlsplit(address).netloc}/{_web_path(address)}")


def _web_path(address: str) -> str:
    parts = urlsplit(address)
    return "" if parts.scheme == "data" else unquote(parts.path)


def _inside(path: str) -> str:
    """The path made relative, without any step upwards: it stays inside the folder it is joined to.

    Every part is one that a disk can hold: addresses may be longer, and may hold control characters.
    """
    plain = "".join("_" if category(c) in _NO_TEXT else c for c in path.replace("\\", "/"))
    parts = [_short(part) for part in plain.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)


def _short(part: str) -> str:
    """At most ``_LONGEST`` bytes, different where the long ones were, with the ending."""
    if len(part.encode()) <= _LONGEST:
        return part
    digest = hashlib.blake2b(part.encode(), digest_size=8).hexdigest()
    ending = PurePosixPath(part).suffix[:10]
    return part[: _LONGEST // 8] + digest + ending
