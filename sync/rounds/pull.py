"""Pull: bring the store level with what Label Studio holds (tasks and annotations of one project).

Incremental by ``updated_at`` with an overlap, oldest change first, stored in batches with the watermark, so
a killed pull goes on where it was. A task that reappears is compared annotation by annotation: created,
changed, skipped and deleted ones are found, drafts and false alarms cost nothing. Deleted tasks do not appear
in the listing; they show as a difference in the number of tasks, which sets off a comparison of all ids.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ml_backend.errors import BadInput, BadLabelConfig
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from sync.rounds.progress import Progress
from sync.rounds.region_rows import region_rows
from sync.rounds.task_queries import effective_annotation
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, ProjectRecord, TaskRecord
from sync.studio.protocol import AnnotationRow, ProjectRow, StudioClient, TaskRow

__all__ = ["PullReport", "pull", "refresh_project"]

_BATCH = 100


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull found: numbers of annotations (created, changed, deleted), tasks (new, gone, broken)."""

    tasks_seen: int = 0
    tasks_new: int = 0
    tasks_gone: int = 0
    annotations_created: int = 0
    annotations_changed: int = 0
    annotations_deleted: int = 0

    @property
    def changes(self) -> int:
        """Number of differences found; 0 when Label Studio and store were level."""
        return (
            self.tasks_new
            + self.tasks_gone
            + self.annotations_created
            + self.annotations_changed
            + self.annotations_deleted
        )


def refresh_project(db: ProjectStore, studio: StudioClient, config: LabelConfig) -> tuple[str, LabelConfig]:
    """Title and label config of now; a new config makes the next pull a full one.

    Raises BadLabelConfig when the config was edited into one that cannot be used; the store keeps the old.
    """
    row = studio.project(db.id)
    fresh = parse_label_config(row.label_config)
    with db.read() as session:
        record = session.get_one(ProjectRecord, db.id)
        stored = (record.title, record.label_config, record.key)
    if stored != (row.title, row.label_config, row.key):
        with db.write() as session:
            record = session.get_one(ProjectRecord, db.id)
            record.title, record.label_config, record.key = row.title, row.label_config, row.key
            if fresh.digest != config.digest:
                record.watermark = None
                # regions are read with the config: what was unreadable may be readable now, and the reverse
                for annotation in session.scalars(
                    select(AnnotationRecord).where(AnnotationRecord.project_id == db.id)
                ):
                    annotation.digest = ""
    return row.title, fresh


def pull(
    db: ProjectStore, studio: StudioClient, config: LabelConfig, settings: Settings, progress: Progress
) -> PullReport:
    """Bring tasks and annotations level; safe to repeat and to kill anywhere."""
    with db.read() as session:
        watermark = session.get_one(ProjectRecord, db.id).watermark
    since = None if watermark is None else watermark - timedelta(seconds=settings.overlap_s)
    counts: Counter[str] = Counter()
    for batch in _batches(studio.tasks(db.id, changed_since=since), _BATCH):
        progress.at("pull.batch")
        with db.write() as session:
            _store_tasks(session, db, config, batch, counts)
            record = session.get_one(ProjectRecord, db.id)
            newest = max(task.updated_at for task in batch)
            if record.watermark is None or newest > record.watermark:
                record.watermark = newest
        progress.report("pull", 0.5, f"{counts['tasks_seen']} tasks compared")
    row = studio.project(db.id)
    _drop_deleted_tasks(db, studio, row, counts)
    with db.write() as session:
        session.get_one(ProjectRecord, db.id).pulled_at = utc_now()
    report = PullReport(**counts)
    progress.report("pull", 1.0, f"{report.tasks_seen} tasks compared, {report.changes} changes")
    return report


def _batches(rows: Iterator[TaskRow], size: int) -> Iterator[list[TaskRow]]:
    while batch := list(islice(rows, size)):
        yield batch


def _store_tasks(
    session: Session, db: ProjectStore, config: LabelConfig, rows: Sequence[TaskRow], counts: Counter[str]
) -> None:
    ids = [row.id for row in rows]
    tasks = {task.id: task for task in session.scalars(select(TaskRecord).where(TaskRecord.id.in_(ids)))}
    stored: dict[int, dict[int, AnnotationRecord]] = {task_id: {} for task_id in ids}
    for known in session.scalars(select(AnnotationRecord).where(AnnotationRecord.task_id.in_(ids))):
        stored[known.task_id][known.id] = known
    for row in rows:
        counts["tasks_seen"] += 1
        task = tasks.get(row.id)
        if task is None:
            counts["tasks_new"] += 1
            task = TaskRecord(id=row.id, project_id=db.id, finished=False)
            task.data, task.image, task.updated_at = dict(row.data), "", row.updated_at
            session.add(task)
            session.flush()
        if task.data != dict(row.data):
            task.data = dict(row.data)
            task.image_error = ""
        task.updated_at = row.updated_at
        task.image, no_image = _image(config, row.data)
        annotations = stored[row.id]
        for gone in set(annotations) - {annotation.id for annotation in row.annotations}:
            counts["annotations_deleted"] += 1
            session.delete(annotations.pop(gone))
        for annotation in row.annotations:
            record = annotations.get(annotation.id)
            if record is None:
                counts["annotations_created"] += 1
                record = AnnotationRecord(id=annotation.id, task_id=row.id, project_id=db.id)
                annotations[annotation.id] = record
            elif _same(record, annotation):
                continue
            else:
                counts["annotations_changed"] += 1
            _fill(record, annotation, config)
            session.add(record)
        speaks = effective_annotation(annotations.values())
        task.finished = speaks is not None
        task.broken = no_image or (speaks.broken if speaks is not None else "")


def _same(record: AnnotationRecord, row: AnnotationRow) -> bool:
    return (
        bool(record.digest)
        and record.updated_at == row.updated_at
        and record.was_cancelled == row.was_cancelled
        and record.ground_truth == row.ground_truth
    )


def _fill(record: AnnotationRecord, row: AnnotationRow, config: LabelConfig) -> None:
    record.completed_by = row.completed_by
    record.was_cancelled = row.was_cancelled
    record.ground_truth = row.ground_truth
    record.created_at = row.created_at
    record.updated_at = row.updated_at
    record.lead_time_s = row.lead_time_s
    try:
        record.regions, record.broken = region_rows(config, row.result), ""
    except BadInput as error:
        record.regions, record.broken = [], f"annotation {row.id}: {error}"
    text = json.dumps(record.regions, sort_keys=True) + record.broken
    record.digest = hashlib.sha256(text.encode()).hexdigest()


def _image(config: LabelConfig, data: Mapping[str, Any]) -> tuple[str, str]:
    """Value of the image tag and why it is missing."""
    try:
        return config.image_of(data), ""
    except BadLabelConfig as error:
        return "", str(error)


def _drop_deleted_tasks(
    db: ProjectStore, studio: StudioClient, row: ProjectRow, counts: Counter[str]
) -> None:
    mine = select(TaskRecord.id).where(TaskRecord.project_id == db.id)
    with db.read() as session:
        known = session.scalar(select(func.count()).select_from(mine.subquery()))
    if known == row.task_number:
        return
    there = studio.task_ids(db.id)
    with db.write() as session:
        gone = sorted(set(session.scalars(mine)) - there)
        counts["tasks_gone"] += len(gone)
        for start in range(0, len(gone), 500):  # databases limit the number of bound values
            session.execute(delete(TaskRecord).where(TaskRecord.id.in_(gone[start : start + 500])))
