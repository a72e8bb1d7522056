"""What an import did, and the file that names every row that is not in as it was."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import BadInput
from sync.exchange.readers.rows import Problem

__all__ = ["ImportReport", "ProblemFile"]

_COLUMNS: Final = ("kind", "file", "row", "field", "reason", "picture")
_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, or would do (``dry_run``).

    Attributes
    ----------
    pictures : pictures that the files speak of
    labels : what they say about pictures that are in, by label of the project
    created, updated, there : tasks that got an annotation or prediction, whose imported annotation was
        brought up to date, and that held all of it already
    untouched : tasks that a person has annotated: they stay as they are
    held_back : pictures of which nothing is in, because a row of theirs was rejected
    rejected, left_out, changed : rows by kind of problem, see ``Problem``
    reasons : how often each reason came, the most frequent first
    examples : the first problems
    version : model version of the predictions, empty for annotations
    shown : whether annotators see these predictions; another version is shown where not
    report_file : file with every problem, empty when there is none
    """

    format: str
    kind: str
    dry_run: bool
    pictures: int
    labels: Mapping[str, int]
    created: int
    updated: int
    there: int
    untouched: int
    held_back: int
    rejected: int
    left_out: int
    changed: int
    reasons: Mapping[str, int]
    examples: Sequence[Problem]
    version: str = ""
    shown: bool = False
    report_file: str = ""


class ProblemFile:
    """Problems as they come: counted, and written to a CSV or JSON file (by its ending) when there are any.

    Used as a context. ``always``: write the file even when there is nothing to write; otherwise a file of an
    earlier run stays as it is when there is no problem. Raises BadInput for another ending, StorageError when
    it cannot be written.
    """

    def __init__(self, path: Path | None, *, always: bool = False) -> None:
        if path is not None and path.suffix not in (".csv", ".json"):
            raise BadInput(f"{path.name} ends neither in .csv nor in .json", field="report")
        self.path = path
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.examples: list[Problem] = []
        self._always = always
        self._file: IO[str] | None = None
        self._writer: Any = None

    def __enter__(self) -> ProblemFile:
        if self._always:
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            if self._writer is None:
                self._file.write("\n]\n")
            self._file.close()

    @property
    def written(self) -> str:
        """The path of the file, empty when none was written."""
        return "" if self._file is None else str(self.path)

    def add(self, problem: Problem) -> None:
        """Count a problem and write it."""
        self.counts[problem.kind] += 1
        self.reasons[f"{problem.field}: {problem.reason}" if problem.field else problem.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(problem)
        if self.path is None:
            return
        if self._file is None:
            self._open()
        row = asdict(problem)
        if self._writer is not None:
            self._writer.writerow([_as_text(row[name]) for name in _COLUMNS])
        elif self._file is not None:
            comma = "," if self.counts.total() > 1 else ""
            self._file.write(f"{comma}\n {json.dumps(row)}")

    def _open(self) -> None:
        if self.path is None:
            return
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # names of files may be no Unicode
            self._file = self.path.open("w", encoding="utf-8", newline="", errors="backslashreplace")
        if self.path.suffix == ".csv":
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._writer.writerow(_COLUMNS)
        else:
            self._file.write("[")


def _as_text(value: str) -> str:
    """Text that a spreadsheet does not take for a formula, on one line."""
    value = value.replace("\r", " ")  # the csv module does not quote it, and readers end a row there
    return f"'{value}" if value[:1] in "=+-@\t" and value else value
