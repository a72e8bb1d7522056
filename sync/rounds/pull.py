"""Pull: bring the store level with what Label Studio holds (tasks and annotations of one project).

A pull asks only for tasks that changed since the last one, by ``updated_at``, oldest change first, and looks
back a little further (the overlap). Tasks are stored in batches. Each batch also stores how far the pull came
(the *watermark*), so a killed pull goes on where it was. A listed task is compared annotation by annotation:
created, changed, skipped and deleted ones are found. Drafts, and tasks listed without a change, cost nothing.

A worker that listed everything up to a moment need not look back beyond the overlap before that moment, by
the server's own clock. So tasks that were imported at once, all with the newest time of change, are not
listed again at every look.

The listing of changes misses deleted tasks, and changes committed so late that even the overlap misses them.
So all tasks are compared by id and time of change: at once whenever the number of tasks differs, and
otherwise every ``compare_s`` seconds, a thousand of them at each pull.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ml_backend.errors import BadInput, BadLabelConfig, StudioError
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.progress import Memo, Progress
from sync.rounds.region_rows import is_tagged_only, read_annotation
from sync.rounds.task_queries import effective_annotation
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.review_tables import forget_deleted
from sync.store.tables import AnnotationRecord, ProjectRecord, TaskRecord
from sync.studio.protocol import AnnotationRow, StudioClient, TaskRow

__all__ = [
    "PullReport",
    "TaskDifferences",
    "compare_tasks",
    "is_comparison_due",
    "listed_since",
    "pull",
]

_BATCH = 100
_PIECE = 1000
"""tasks that one pull compares when a comparison is due: one page of Label Studio"""


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


@dataclass(frozen=True, slots=True)
class TaskDifferences:
    """Tasks to drop from the store, and tasks to fetch because they are missing or older there; ascending."""

    gone: tuple[int, ...] = ()
    to_fetch: tuple[int, ...] = ()


def compare_tasks(there: Mapping[int, datetime], here: Mapping[int, datetime]) -> TaskDifferences:
    """What differs between Label Studio and the store; both map task ids to the time of the last change."""
    to_fetch = [task for task, changed_at in there.items() if here.get(task) != changed_at]
    return TaskDifferences(tuple(sorted(set(here) - set(there))), tuple(sorted(to_fetch)))


def is_comparison_due(
    counted: int,
    stored: int,
    surplus: int | None,
    compared_at: datetime | None,
    now: datetime,
    every_s: float,
) -> bool:
    """Whether all tasks should be compared now.

    Label Studio counts ``counted`` tasks, the store holds ``stored``. ``surplus`` is by how much the two
    differed after the last comparison: a count that stays wrong is no reason to compare at every look.
    """
    if compared_at is None or stored - counted != (surplus or 0):
        return True
    return (now - compared_at).total_seconds() >= every_s


def listed_since(
    watermark: datetime | None, listed: tuple[datetime, datetime] | None, overlap_s: float
) -> datetime | None:
    """From when on changed tasks are listed; None lists all.

    ``watermark`` is the newest time of change in the store. ``listed`` is the server's time just before the
    last complete listing, and the watermark that the store had after it.
    """
    if watermark is None:
        return None
    known = watermark
    if listed is not None and listed[1] <= watermark:
        known = max(known, listed[0])
    return known - timedelta(seconds=overlap_s)


def pull(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    progress: Progress,
    memo: Memo | None = None,
    *,
    counted: int | None = None,
) -> PullReport:
    """Bring tasks and annotations level; safe to repeat and to kill anywhere.

    ``counted``: tasks of the project as Label Studio counted them a moment ago. They are counted again when
    there is news. ``memo`` lets a worker go on where its last pull ended. Without it, the look-back is as far
    as for the first pull of a worker, and a comparison that is due is made of all tasks at once.
    """
    with db.read() as session:
        watermark = session.get_one(ProjectRecord, db.id).watermark
    kept = None if memo is None else memo.get(("listed", db.id, db.key))
    listed = kept if isinstance(kept, tuple) else None
    since = listed_since(watermark, listed, settings.overlap_s)
    started_at, server_time = utc_now(), studio.server_time()
    counts: Counter[str] = Counter()
    _store_rows(db, config, progress, studio.tasks(db.id, changed_since=since), counts)
    if counted is None or counts["tasks_seen"]:
        counted = studio.project(db.id).task_number
    with db.write() as session:
        record = session.get_one(ProjectRecord, db.id)
        if watermark is None:  # everything was listed just now
            record.compared_at, record.compared_surplus = started_at, 0
        record.pulled_at = utc_now()
        compared_at, surplus, level = record.compared_at, record.compared_surplus, record.watermark
        stored = session.scalar(
            select(func.count()).select_from(TaskRecord).where(TaskRecord.project_id == db.id)
        )
    if memo is not None and server_time is not None and level is not None:
        memo["listed", db.id, db.key] = (server_time, level)
    if is_comparison_due(counted, stored or 0, surplus, compared_at, utc_now(), settings.compare_s):
        is_off = is_comparison_due(counted, stored or 0, surplus, compared_at, utc_now(), math.inf)
        if is_off or memo is None:
            _compare_all(db, studio, config, progress, counted, counts)
        else:
            _compare_next(db, studio, config, progress, memo, counts)
    report = PullReport(**counts)
    progress.report("pull", 1.0, f"{report.tasks_seen} tasks compared, {report.changes} changes")
    return report


def _compare_all(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    progress: Progress,
    counted: int,
    counts: Counter[str],
) -> None:
    """Compare all tasks, then drop and fetch what differs."""
    there = studio.task_times(db.id)
    _level(db, studio, config, progress, there, _stored_times(db, 0, None), counts)
    with db.write() as session:
        record = session.get_one(ProjectRecord, db.id)
        record.compared_at, record.compared_surplus = utc_now(), len(there) - counted


def _compare_next(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    progress: Progress,
    memo: Memo,
    counts: Counter[str],
) -> None:
    """Compare the next piece of the tasks, in the order of ids. After the last one all were compared."""
    name = ("compared up to", db.id, db.key)
    kept = memo.get(name)
    after = kept if isinstance(kept, int) else 0
    there = studio.task_times(db.id, after=after, limit=_PIECE)
    last = max(there) if len(there) == _PIECE else None
    _level(db, studio, config, progress, there, _stored_times(db, after, last), counts)
    if last is not None:
        memo[name] = last
        return
    memo.pop(name, None)
    with db.write() as session:
        session.get_one(ProjectRecord, db.id).compared_at = utc_now()


def _stored_times(db: ProjectStore, after: int, last: int | None) -> dict[int, datetime]:
    """Times of change of the tasks with ids above ``after``, up to ``last``."""
    query = select(TaskRecord.id, TaskRecord.updated_at).where(
        TaskRecord.project_id == db.id, TaskRecord.id > after
    )
    if last is not None:
        query = query.where(TaskRecord.id <= last)
    with db.read() as session:
        return {task: changed_at for task, changed_at in session.execute(query)}


def _level(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    progress: Progress,
    there: Mapping[int, datetime],
    here: Mapping[int, datetime],
    counts: Counter[str],
) -> None:
    """Drop and fetch what differs between tasks of Label Studio and those of the store."""
    found = compare_tasks(there, here)
    progress.at("pull.compare")
    if not found.gone and not found.to_fetch:
        return
    with db.write() as session:
        counts["tasks_gone"] += len(found.gone)
        for start in range(0, len(found.gone), 500):  # databases limit the number of bound values
            session.execute(delete(TaskRecord).where(TaskRecord.id.in_(found.gone[start : start + 500])))
    if len(found.to_fetch) > _BATCH:
        oldest = min(there[task] for task in found.to_fetch)
        rows = studio.tasks(db.id, changed_since=oldest - timedelta(seconds=1))
        _store_rows(db, config, progress, rows, counts)
    else:
        _store_rows(db, config, progress, _fetched(studio, found.to_fetch), counts)


def _fetched(studio: StudioClient, tasks: Sequence[int]) -> Iterator[TaskRow]:
    """Fetch these tasks one by one; the next comparison handles a task that was deleted meanwhile."""
    for task in tasks:
        try:
            yield studio.task(task)
        except StudioError as error:
            if error.status != 404:
                raise


def _store_rows(
    db: ProjectStore,
    config: LabelConfig,
    progress: Progress,
    rows: Iterator[TaskRow],
    counts: Counter[str],
) -> None:
    """Store tasks in batches, with the newest time of change that was seen."""
    for batch in _batches(rows, _BATCH):
        progress.at("pull.batch")
        with db.write() as session:
            _store_tasks(session, db, config, batch, counts)
            record = session.get_one(ProjectRecord, db.id)
            newest = max(task.updated_at for task in batch)
            if record.watermark is None or newest > record.watermark:
                record.watermark = newest
        progress.report("pull", 0.5, f"{counts['tasks_seen']} tasks compared")


def _batches(rows: Iterator[TaskRow], size: int) -> Iterator[list[TaskRow]]:
    while batch := list(islice(rows, size)):
        yield batch


def _store_tasks(
    session: Session, db: ProjectStore, config: LabelConfig, rows: Sequence[TaskRow], counts: Counter[str]
) -> None:
    ids = [row.id for row in rows]
    # A server never gives a number twice: rows of another project with these numbers are from an older server
    annotation_ids = [annotation.id for row in rows for annotation in row.annotations]
    session.execute(
        delete(AnnotationRecord).where(
            AnnotationRecord.project_id != db.id, AnnotationRecord.id.in_(annotation_ids)
        )
    )
    session.execute(delete(TaskRecord).where(TaskRecord.project_id != db.id, TaskRecord.id.in_(ids)))
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
            forget_deleted(session, db.id, "classes", [gone])
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
        task.tagged_only = speaks is not None and is_tagged_only(config, speaks.regions)
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
        read = read_annotation(config, row.result)
        record.regions, record.broken, record.clicks_left = read.rows, "", read.clicks_left
    except BadInput as error:
        record.regions, record.broken, record.clicks_left = [], f"annotation {row.id}: {error}", 0
    text = json.dumps(record.regions, sort_keys=True) + record.broken
    record.digest = hashlib.sha256(text.encode()).hexdigest()


def _image(config: LabelConfig, data: Mapping[str, Any]) -> tuple[str, str]:
    """Value of the image tag and why it is missing."""
    try:
        return config.image_of(data), ""
    except BadLabelConfig as error:
        return "", str(error)
