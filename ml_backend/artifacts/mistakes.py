"""Likely label mistakes of a project: written by the worker, read by dashboard, command line and page.

``projects/<id>/mistakes/<version>.parquet`` (``ProjectPaths.mistakes(version)``) holds one row per finding of
the round whose model version is ``<version>``, most likely mistake first; ``read_mistakes`` reads it. The
file is replaced when annotations change. Findings that were mended or dismissed are left out. ``about`` says
how many finished tasks were judged, by which models, and how many could not be.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from ml_backend.errors import StorageError

__all__ = ["COLUMNS", "KINDS", "Finding", "MistakeTable", "read_mistakes", "write_mistakes"]

KINDS: Final = (
    "overlooked",
    "placed",
    "swapped",
    "class",
    "area",
    "duplicate",
    "near duplicate",
    "leak",
)
"""overlooked, badly placed or swapped objects; wrong class of a picture; area of a class that differs from
the model's; pictures that are there twice, nearly twice, or on both sides of the test split"""

COLUMNS: Final[Mapping[str, type]] = {
    "task_id": int,
    "kind": str,
    "score": float,
    "reason": str,
    "label": str,
    "other_label": str,
    "region": str,
    "x0": float,
    "y0": float,
    "x1": float,
    "y1": float,
    "height": int,
    "width": int,
    "other_task": int,
    "judged_by": str,
    "task_score": float,
    "annotation": str,
}
_TYPES: Final[Mapping[type, str]] = {int: "int64", float: "float64", str: "string"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One likely mistake.

    Attributes
    ----------
    task_id : the task to look at
    kind : one of ``KINDS``
    score : 0..1, how likely a look is worth it; comparable between kinds
    reason : one line in plain words
    label : what people said; of an overlooked object what the model says
    other_label : what the model says instead, empty when it says the same
    region : id of the region in the annotation, empty when there is none
    x0, y0, x1, y1 : where in the picture, in pixels; NaN for the whole picture
    height, width : size of the picture in pixels, 0 when it is not known
    other_task : the task with the same picture, -1 for other kinds
    judged_by : the model version, which was not trained on this task; empty for duplicates
    task_score : 0..1, all objects of the task together (1 - quality of ObjectLab)
    annotation : digest of the annotation that was judged
    """

    task_id: int
    kind: str
    score: float
    reason: str
    label: str = ""
    other_label: str = ""
    region: str = ""
    x0: float = float("nan")
    y0: float = float("nan")
    x1: float = float("nan")
    y1: float = float("nan")
    height: int = 0
    width: int = 0
    other_task: int = -1
    judged_by: str = ""
    task_score: float = 0.0
    annotation: str = ""

    def as_json(self) -> dict[str, Any]:
        """For people and programs: ``box`` is None for the whole picture, ``other_task`` for no other."""
        box = [round(float(v), 1) for v in (self.x0, self.y0, self.x1, self.y1)]
        return {
            "task": self.task_id,
            "kind": self.kind,
            "score": round(self.score, 4),
            "reason": self.reason,
            "label": self.label,
            "other_label": self.other_label,
            "region": self.region,
            "box_xyxy": None if np.isnan(self.x0) else box,
            "other_task": None if self.other_task < 0 else self.other_task,
            "judged_by": self.judged_by,
            "task_score": round(self.task_score, 4),
        }


@dataclass(frozen=True, slots=True)
class MistakeTable:
    """The findings of a round, most likely first.

    ``key`` is a digest of all they were made from. ``about`` holds ``round``, ``version``, ``finished``
    (finished tasks), ``judged`` (by model version), ``unjudged`` (finished tasks that every model was trained
    on, or that none has looked at), ``dismissed`` and ``kinds`` (findings by kind).
    """

    key: str
    about: Mapping[str, Any]
    findings: tuple[Finding, ...]

    def __len__(self) -> int:
        return len(self.findings)

    def tasks(self) -> dict[int, list[Finding]]:
        """Findings by task, the task with the likeliest mistake first."""
        found: dict[int, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.task_id, []).append(finding)
        return found


def write_mistakes(path: Path, table: MistakeTable, *, guard: Guard = unguarded) -> None:
    """Replace the file of a round's findings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array([getattr(finding, name) for finding in table.findings], _TYPES[kind])
        for name, kind in COLUMNS.items()
    }
    made = pa.table(columns).replace_schema_metadata(
        {"key": table.key, "about": json.dumps(dict(table.about), sort_keys=True)}
    )
    file = io.BytesIO()
    pq.write_table(made, file, compression="zstd")
    write_atomic(path, file.getvalue(), guard=guard)


def read_mistakes(path: Path) -> MistakeTable | None:
    """The findings in a file, None when it is not there. Raises StorageError when it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table: pa.Table = file.read()
        about = table.schema.metadata or {}
        columns = [table[name].to_pylist() for name in COLUMNS]
        findings = tuple(Finding(*row) for row in zip(*columns, strict=True))
        return MistakeTable(about[b"key"].decode(), json.loads(about[b"about"]), findings)
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read as a list of likely mistakes ({error})",
            hint="Delete it: the worker makes it again",
        ) from error
