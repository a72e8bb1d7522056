"""Masks as PNG: numbers of labels, numbers of objects, or one file per label.

Which of them a folder holds is seen from its names:

* ``legend.json``, as our own export writes it, says what each number means, and whether numbers stand for
  labels or for objects;
* folders named like labels, ``cat/street/17.png``: what is not 0 is of that label;
* files named ``17_cat.png`` or ``17.cat.png``, with ``_1``, ``_2``, … behind it where each is one object;
* otherwise a file holds numbers of labels. ``classes.txt`` names them, 1 on its first line (0 where that is
  the background); without it they are the project's labels in their order.

0 is background. 255 is unknown and stands for nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadInput
from ml_backend.masks.rle import encode_mask
from sync.exchange.readers.names import read_lines
from sync.exchange.readers.png import read_indices
from sync.exchange.readers.rows import PictureRows, Problem, Row, Shape

__all__ = ["LEGEND", "UNKNOWN", "MasksReader"]

LEGEND: Final = "legend.json"
UNKNOWN: Final = 255
_BACKGROUND: Final = frozenset({"background", "_background_", "__background__", "bg"})


class MasksReader:
    """See ``sync.exchange.readers.rows.Reader``.

    ``known`` are the names of labels that file names may hold and, without any list, the labels of the
    numbers from 1. Raises BadInput when there are no PNG files.
    """

    def __init__(self, path: Path, known: Sequence[str], classes: Path | None = None) -> None:
        self._root = path
        if not path.is_dir() or next(path.rglob("*.png"), None) is None:
            raise BadInput(f"{path} is no folder with PNG files", field="path")
        self._known = tuple(known)
        self._legend = _legend(path / LEGEND) if classes is None and (path / LEGEND).is_file() else None
        self._folders = {label: path / label for label in known if (path / label).is_dir()}
        listed = classes or path / "classes.txt"
        self._name_of = _numbered(read_lines(listed)) if listed.is_file() else _numbered(known)
        if self._legend is not None:
            self._name_of = {int(row["value"]): str(row["label"]) for row in self._legend["labels"]}
        endings = "|".join(re.escape(label) for label in sorted(known, key=len, reverse=True))
        self._ending = re.compile(rf"^(?P<stem>.+)[_.](?P<label>{endings})(?:_(?P<number>\d+))?$")
        self.labels: Sequence[str] = tuple(self._name_of.values())

    def pictures(self) -> Iterator[PictureRows | Problem]:
        if self._legend is not None:
            yield from self._of_legend(self._legend)
        elif self._folders:
            yield from self._by_picture(self._in_folders())
        else:
            yield from self._by_name()

    def _of_legend(self, legend: Mapping[str, Any]) -> Iterator[PictureRows | Problem]:
        for number, picture in enumerate(legend["pictures"]):
            path = self._root / str(picture["mask"])
            if not path.resolve().is_relative_to(self._root.resolve()):
                reason = "the mask is not in the folder"
                yield Problem("rejected", str(self._root / LEGEND), f"pictures[{number}]", "mask", reason)
                continue
            objects = None
            if legend.get("numbers") == "objects":
                objects = {int(row["value"]): str(row["label"]) for row in picture["labels"]}
            found = self._indexed(path, str(picture["file_name"]), objects)
            if isinstance(found, Problem):
                found = Problem(
                    "rejected", str(self._root / LEGEND), f"pictures[{number}]", "mask", found.reason
                )
            yield found

    def _by_name(self) -> Iterator[PictureRows | Problem]:
        """Files with the label in their names, or numbers of labels where no name holds one."""
        of_label: dict[str, list[tuple[str, Path, bool]]] = {}
        for path in sorted(self._root.rglob("*.png")):
            below = PurePosixPath(path.relative_to(self._root).as_posix())
            match = self._ending.match(below.stem) if self._known else None
            if match is None:
                yield self._indexed(path, below.with_suffix("").as_posix(), None)
                continue
            stem = below.with_name(match["stem"]).as_posix()
            of_label.setdefault(stem, []).append((match["label"], path, match["number"] is None))
        yield from self._by_picture(of_label)

    def _in_folders(self) -> dict[str, list[tuple[str, Path, bool]]]:
        found: dict[str, list[tuple[str, Path, bool]]] = {}
        for label, folder in self._folders.items():
            for path in sorted(folder.rglob("*.png")):
                stem = path.relative_to(folder).with_suffix("").as_posix()
                found.setdefault(stem, []).append((label, path, True))
        return dict(sorted(found.items()))

    def _by_picture(self, files: Mapping[str, Sequence[tuple[str, Path, bool]]]) -> Iterator[PictureRows]:
        for stem, parts in files.items():
            rows: list[Row] = []
            problems: list[Problem] = []
            hw = None
            for label, path, whole in parts:
                try:
                    values = read_indices(path)
                except BadInput as error:
                    problems.append(Problem("rejected", str(path), "", "", error.message, stem))
                    continue
                hw = hw or (values.shape[0], values.shape[1])
                rows += _rows(path.name, {1: label}, np.minimum(values, 1), whole=whole)
            yield PictureRows(str(parts[0][1]), stem, hw, rows, problems, no_suffix=True)

    def _indexed(self, path: Path, name: str, objects: Mapping[int, str] | None) -> PictureRows | Problem:
        """A file of numbers: of labels, or of ``objects`` where their labels are given."""
        try:
            values = read_indices(path)
        except BadInput as error:
            return Problem("rejected", str(path), "", "", error.message, name)
        names = self._name_of if objects is None else objects
        rows = _rows("", names, values, whole=objects is None)
        there = set(np.unique(values).tolist()) - names.keys() - {0, UNKNOWN if objects is None else 0}
        problems = [
            Problem("rejected", str(path), f"value {value}", "value", "no label has this number", name)
            for value in sorted(there)
        ]
        no_suffix = self._legend is None
        return PictureRows(
            str(path), name, (values.shape[0], values.shape[1]), rows, problems, no_suffix=no_suffix
        )


def _rows(where: str, names: Mapping[int, str], values: npt.NDArray[np.int32], *, whole: bool) -> list[Row]:
    return [
        Row(
            where or f"value {value}",
            names[value],
            Shape(None, encode_mask(values == value), whole_label=whole),
        )
        for value in np.unique(values).tolist()
        if value in names
    ]


def _numbered(lines: Sequence[str]) -> dict[int, str]:
    """Labels by number; ignored and background lines take numbers as in the lists of other tools."""
    named = [line for line in lines if line != "__ignore__"]
    start = 0 if named and named[0].lower() in _BACKGROUND else 1
    return {
        number: name
        for number, name in enumerate(named, start=start)
        if name and name.lower() not in _BACKGROUND
    }


def _legend(path: Path) -> Mapping[str, Any]:
    try:
        legend = json.loads(path.read_text(encoding="utf-8"))
        for row in legend["labels"]:
            int(row["value"]), str(row["label"])
        for picture in legend["pictures"]:
            str(picture["mask"]), str(picture["file_name"])
            for row in picture["labels"]:
                int(row["value"]), str(row["label"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(
            f"{path} is no legend: {error!r}", field="legend", hint="Name the labels with --classes instead"
        ) from error
    if not isinstance(legend, Mapping):
        raise BadInput(f"{path} is no legend", field="legend")
    return legend
