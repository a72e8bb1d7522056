"""CSV of classes: columns ``file`` and ``label``, perhaps ``score`` (or ``probability``); one line a label.

A line without a label says that the picture was looked at. Lines of one picture may stand anywhere.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_backend.errors import BadInput
from sync.exchange.readers.rows import PictureRows, Problem, Row
from sync.exchange.readers.spool import Spool

__all__ = ["CsvReader"]

_SCORES = ("score", "probability")


class CsvReader:
    """See ``sync.exchange.readers.rows.Reader``. Raises BadInput when the columns are not there."""

    labels: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        head = next(self._lines(), None)
        if head is None or not {"file", "label"} <= set(head):
            raise BadInput(
                f"{path.name} has no columns file and label", field="file", hint="Name them in its first line"
            )

    def pictures(self) -> Iterator[PictureRows | Problem]:
        with Spool() as spool:
            spool.fill("lines", ((str(line.get("file") or ""), line) for line in self._lines()))
            for name in spool.keys("lines"):
                if name:
                    yield self._picture(name, spool.of("lines", name))
                    continue
                for _, line in spool.of("lines", ""):
                    yield Problem(
                        "rejected", str(self._path), f"line {line['']}", "file", "the field is empty"
                    )

    def _picture(self, name: str, lines: Sequence[tuple[int, Any]]) -> PictureRows:
        rows: list[Row] = []
        problems: list[Problem] = []
        for _, line in lines:
            where = f"line {line['']}"
            text = next((line[field] for field in _SCORES if line.get(field)), "")
            try:
                score = float(text) if text else None
            except ValueError:
                what = f"{text!r:.40} is no number"
                problems.append(Problem("rejected", str(self._path), where, "score", what, name))
                continue
            if label := (line.get("label") or "").strip():
                rows.append(Row(where, label, None, score))
        return PictureRows(str(self._path), name, None, rows, problems)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The lines as dictionaries; the number of the line stands under the empty name."""
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as file:
                first = file.readline()
                file.seek(0)
                reader = csv.DictReader(file, delimiter=max(",;\t", key=first.count))
                for line in reader:
                    line.pop(None, None)  # cells without a column
                    yield {**line, "": reader.line_num}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadInput(f"{self._path} cannot be read: {error}", field="path") from error
