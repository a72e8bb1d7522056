"""Light rows of annotations and answers: what the dashboard counts, without masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from sync.rounds.region_rows import tags_of
from sync.rounds.task_queries import effective_annotation
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, AnswerRecord

__all__ = [
    "AnnotationLine",
    "AnswerLine",
    "annotation_lines",
    "answer_lines",
    "finished_by_hand",
    "speaking",
]


@dataclass(frozen=True, slots=True)
class AnnotationLine:
    """One annotation; ``regions`` counts what a person drew or chose.

    ``tagged_only``: it says what the picture shows, and not where; what is found there is still wanted.
    """

    id: int
    task_id: int
    user: int
    was_cancelled: bool
    ground_truth: bool
    created_at: datetime
    updated_at: datetime
    seconds: float | None
    regions: int
    is_broken: bool
    tagged_only: bool = False


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """One answer to one question."""

    annotation_id: int
    worker: int
    value: str
    seconds: float | None


def annotation_lines(db: ProjectStore, *, without_tags: bool) -> list[AnnotationLine]:
    """All annotations of a project, oldest first.

    ``without_tags``: choices do not count as regions, since the project wants to know where things are.
    Masks are read only then; otherwise the database counts.
    """
    table = AnnotationRecord
    count = table.regions if without_tags else func.json_array_length(table.regions)
    query = (
        select(
            table.id,
            table.task_id,
            table.completed_by,
            table.was_cancelled,
            table.ground_truth,
            table.created_at,
            table.updated_at,
            table.lead_time_s,
            count,
            table.broken != "",
        )
        .where(table.project_id == db.id)
        .order_by(table.id)
    )
    with db.read() as session:
        rows = session.execute(query).all()
    lines = []
    for row in rows:
        regions = len(row[8]) - len(tags_of(row[8])) if without_tags else int(row[8])
        lines.append(
            AnnotationLine(
                row[0],
                row[1],
                row[2] or 0,
                row[3],
                row[4],
                row[5],
                row[6],
                row[7],
                regions,
                bool(row[9]),
                tagged_only=without_tags and not regions,
            )
        )
    return lines


def speaking(lines: Iterable[AnnotationLine]) -> dict[int, AnnotationLine]:
    """The annotation that counts for each finished task, by task; broken ones do not count."""
    by_task: dict[int, list[AnnotationLine]] = {}
    for line in lines:
        if not line.is_broken:
            by_task.setdefault(line.task_id, []).append(line)
    found = ((task, effective_annotation(rows)) for task, rows in by_task.items())
    return {task: line for task, line in found if line is not None}


def finished_by_hand(spoken: Mapping[int, AnnotationLine]) -> set[int]:
    """Tasks of which a person said all, so that nothing found there counts. ``spoken``: see ``speaking``."""
    return {task for task, line in spoken.items() if not line.tagged_only}


def answer_lines(db: ProjectStore) -> Sequence[AnswerLine]:
    """All answers of a project's review, skips included."""
    table = AnswerRecord
    query = select(table.annotation_id, table.worker, table.value, table.seconds)
    with db.read() as session:
        rows = session.execute(query.where(table.project_id == db.id).order_by(table.id)).all()
    return [AnswerLine(*row) for row in rows]
