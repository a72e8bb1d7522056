"""YOLO: one text file a picture, a line an object, coordinates as shares of the picture.

A line is ``class x y width height`` (centre and size of a box) or ``class x1 y1 x2 y2 …`` (a polygon), each
perhaps with a score at its end. The names of the classes stand in ``data.yaml`` or ``classes.txt``. An empty
file says that the picture shows nothing; a picture without a file is not spoken of.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from ml_backend.errors import BadInput
from sync.exchange.readers.names import NAME_FILES, find_names, read_names
from sync.exchange.readers.rows import PictureRows, Problem, Row, Shape

__all__ = ["YoloReader"]

_SLACK: Final = 0.01
"""how far a coordinate may lie outside 0..1: writers round, and cut at the border afterwards"""
_NO_LABELS: Final = frozenset({*NAME_FILES, "train.txt", "val.txt", "test.txt", "readme.txt", "notes.txt"})


class YoloReader:
    """See ``sync.exchange.readers.rows.Reader``.

    ``path`` is the folder of a data set, its data.yaml, or a folder of label files. ``classes`` names a file
    with the names of the classes. Raises BadInput when there are no label files or no names.
    """

    def __init__(self, path: Path, classes: Path | None = None) -> None:
        names = classes or (path if path.suffix in (".yaml", ".yml") else None)
        root = path.parent if path.is_file() else path
        names = names or find_names(root)
        if not root.is_dir():
            raise BadInput(f"{path} is not there", field="path", hint="Give the folder of the data set")
        if names is None:
            raise BadInput(
                f"{root} has no data.yaml or classes.txt",
                field="classes",
                hint="Name a file with one label a line: --classes FILE",
            )
        self._name_of = read_names(names)
        self.labels: Sequence[str] = tuple(self._name_of.values())
        self._root = root / "labels" if (root / "labels").is_dir() else root
        if next(self._files(), None) is None:
            raise BadInput(f"{self._root} holds no label files", field="path", hint="labels/a.txt for a.jpg")

    def pictures(self) -> Iterator[PictureRows | Problem]:
        for file in self._files():
            yield self._picture(file)

    def _files(self) -> Iterator[Path]:
        for folder, inner, names in os.walk(self._root):
            inner.sort()
            for name in sorted(names):
                if name.endswith(".txt") and name.lower() not in _NO_LABELS:
                    yield Path(folder, name)

    def _picture(self, file: Path) -> PictureRows | Problem:
        below = PurePosixPath(file.relative_to(self._root).as_posix())
        parts = [part for part in below.parts[:-1] if part != "labels"]
        name = PurePosixPath(*parts, below.name[: -len(".txt")]).as_posix()
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            return Problem("rejected", str(file), "", "", f"cannot be read: {error}", name)
        rows: list[Row] = []
        problems: list[Problem] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append(self._row(f"line {number}", line.split()))
            except BadInput as error:
                problems.append(
                    Problem("rejected", str(file), f"line {number}", error.field, error.message, name)
                )
        return PictureRows(str(file), name, None, rows, problems, no_suffix=True)

    def _row(self, where: str, words: Sequence[str]) -> Row:
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise BadInput(f"not all are numbers: {' '.join(words):.60}", field="line") from None
        if not all(map(math.isfinite, values)):
            raise BadInput("a number is not finite", field="line")
        if values[0] not in self._name_of:
            raise BadInput(f"class {words[0]} has no name", field="class")
        label, rest = self._name_of[int(values[0])], values[1:]
        score = rest.pop() if len(rest) == 5 or (len(rest) > 5 and len(rest) % 2) else None
        if score is not None and not 0 <= score <= 1:
            raise BadInput(f"the score {score:g} is outside 0..1", field="score")
        if len(rest) < 4:
            raise BadInput(f"{len(words)} numbers are neither a box nor a polygon", field="line")
        if not all(-_SLACK <= value <= 1 + _SLACK for value in rest):
            raise BadInput("a coordinate is outside 0..1: are these pixels?", field="coordinates")
        if len(rest) == 4:
            x, y, width, height = rest
            if width <= 0 or height <= 0:
                raise BadInput(f"the box has no area: {width:g} × {height:g}", field="coordinates")
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            return Row(where, label, Shape(box, relative=True), score)
        return Row(where, label, Shape(None, [rest], relative=True), score)
