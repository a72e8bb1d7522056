"""What judges said about each finished task, kept so that only changed tasks are judged again.

``mistakes/judged.parquet``: one row per judged task.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from sync.mistakes.measure import Measured

__all__ = ["VERSION", "JudgedTask", "read_judged", "write_judged"]

VERSION: Final = "2"
"""of the scores: what another one said is judged again"""


@dataclass(frozen=True, slots=True)
class JudgedTask:
    """One task.

    Attributes
    ----------
    annotation : digest of the annotation that was judged
    judge : name of the model
    measured : what it says
    listed : whether the task is on the list of likely mistakes
    settled : digest of an annotation that a person changed after the task was listed; it was looked at
    """

    annotation: str
    judge: str
    measured: Measured
    listed: bool = False
    settled: str = ""


def read_judged(path: Path) -> dict[int, JudgedTask]:
    """Judged tasks by id; empty when there is no file, or one of another program."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        if (table.schema.metadata or {}).get(b"version") != VERSION.encode():
            return {}
        return {
            row["task_id"]: JudgedTask(
                row["annotation"],
                row["judge"],
                Measured.from_json(json.loads(row["measured"])),
                row["listed"],
                row["settled"],
            )
            for row in table.to_pylist()
        }
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return {}  # not there, or damaged: judged again


def write_judged(path: Path, tasks: Mapping[int, JudgedTask], *, guard: Guard = unguarded) -> None:
    """Replace the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = sorted(tasks)
    rows = [tasks[task] for task in ids]
    table = pa.table(
        {
            "task_id": pa.array(ids, pa.int64()),
            "annotation": pa.array([row.annotation for row in rows], pa.string()),
            "judge": pa.array([row.judge for row in rows], pa.string()),
            "measured": pa.array([json.dumps(row.measured.as_json()) for row in rows], pa.string()),
            "listed": pa.array([row.listed for row in rows], pa.bool_()),
            "settled": pa.array([row.settled for row in rows], pa.string()),
        }
    ).replace_schema_metadata({"version": VERSION})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    write_atomic(path, file.getvalue(), guard=guard)
