"""Database queries that several steps share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Protocol, TypeVar

from sqlalchemy import func, select

from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, SplitRecord, TaskRecord

__all__ = [
    "drawn_test_ids",
    "effective_annotation",
    "finished_digests",
    "finished_pages",
    "finished_tasks",
    "finished_test_ids",
    "note_image_errors",
    "open_task_ids",
    "task_images",
    "test_split",
]


class _Said(Protocol):
    """What decides which annotation counts."""

    @property
    def id(self) -> int: ...
    @property
    def was_cancelled(self) -> bool: ...
    @property
    def ground_truth(self) -> bool: ...
    @property
    def updated_at(self) -> datetime: ...


_S = TypeVar("_S", bound=_Said)


def effective_annotation(annotations: Iterable[_S]) -> _S | None:
    """The annotation that counts for a task: ground truth first, then the newest; never a skip."""
    submitted = [annotation for annotation in annotations if not annotation.was_cancelled]
    return max(submitted, key=lambda row: (row.ground_truth, row.updated_at, row.id), default=None)


def open_task_ids(db: ProjectStore) -> list[int]:
    """Tasks on which models look for objects, in order of id: those with an image that nobody has finished,
    or that are finished by tags alone.
    """
    is_open = TaskRecord.finished.is_(False) | TaskRecord.tagged_only.is_(True)
    query = select(TaskRecord.id).where(TaskRecord.project_id == db.id, is_open, TaskRecord.broken == "")
    with db.read() as session:
        return list(session.scalars(query.order_by(TaskRecord.id)))


def drawn_test_ids(db: ProjectStore, number: int) -> set[int]:
    """Tasks of that test split on which people drew every object: those of which the truth is known."""
    query = select(TaskRecord.id).where(TaskRecord.project_id == db.id, TaskRecord.tagged_only.is_(False))
    with db.read() as session:
        return test_split(db, number) & set(session.scalars(query))


def test_split(db: ProjectStore, number: int) -> set[int]:
    """Tasks of the test split of that number; empty when there is none. See ``sync.rounds.test_split``."""
    query = select(SplitRecord.task_id).where(SplitRecord.project_id == db.id, SplitRecord.number == number)
    with db.read() as session:
        return set(session.scalars(query))


def finished_test_ids(db: ProjectStore, number: int) -> list[int]:
    """Finished tasks of the test split of that number that can be used, in order of id."""
    query = (
        select(TaskRecord.id)
        .join(
            SplitRecord,
            (SplitRecord.project_id == TaskRecord.project_id) & (SplitRecord.task_id == TaskRecord.id),
        )
        .where(TaskRecord.project_id == db.id, TaskRecord.finished.is_(True), TaskRecord.broken == "")
        .where(SplitRecord.number == number)
    )
    with db.read() as session:
        return list(session.scalars(query.order_by(TaskRecord.id)))


def finished_tasks(db: ProjectStore) -> dict[int, tuple[TaskRecord, AnnotationRecord]]:
    """Finished tasks whose regions can be used, by id, each with the annotation that counts."""
    tasks_query = select(TaskRecord).where(
        TaskRecord.project_id == db.id, TaskRecord.finished.is_(True), TaskRecord.broken == ""
    )
    annotations_query = select(AnnotationRecord).where(
        AnnotationRecord.project_id == db.id, AnnotationRecord.was_cancelled.is_(False)
    )
    with db.read() as session:
        tasks = list(session.scalars(tasks_query.order_by(TaskRecord.id)))
        by_task: dict[int, list[AnnotationRecord]] = {task.id: [] for task in tasks}
        for annotation in session.scalars(annotations_query):
            if annotation.task_id in by_task:
                by_task[annotation.task_id].append(annotation)
    found = {}
    for task in tasks:
        speaks = effective_annotation(by_task[task.id])
        if speaks is not None:
            found[task.id] = (task, speaks)
    return found


def finished_pages(db: ProjectStore, size: int = 200) -> Iterator[list[tuple[TaskRecord, AnnotationRecord]]]:
    """The same, in order of id and page by page: memory does not grow with the project."""
    query = select(TaskRecord.id).where(
        TaskRecord.project_id == db.id, TaskRecord.finished.is_(True), TaskRecord.broken == ""
    )
    with db.read() as session:
        ids = list(session.scalars(query.order_by(TaskRecord.id)))
    for start in range(0, len(ids), size):
        page = ids[start : start + size]
        with db.read() as session:
            tasks = list(session.scalars(select(TaskRecord).where(TaskRecord.id.in_(page))))
            rows = session.scalars(
                select(AnnotationRecord).where(
                    AnnotationRecord.task_id.in_(page), AnnotationRecord.was_cancelled.is_(False)
                )
            )
            by_task: dict[int, list[AnnotationRecord]] = {task.id: [] for task in tasks}
            for annotation in rows:
                by_task[annotation.task_id].append(annotation)
        tasks.sort(key=lambda task: task.id)
        speaking = [(task, effective_annotation(by_task[task.id])) for task in tasks]
        yield [(task, speaks) for task, speaks in speaking if speaks is not None]


def finished_digests(db: ProjectStore) -> dict[int, str]:
    """Digest of the annotation that counts for each finished, usable task, by id; reads no regions."""
    said = AnnotationRecord
    place = func.row_number().over(  # as ``effective_annotation``
        partition_by=said.task_id,
        order_by=(said.ground_truth.desc(), said.updated_at.desc(), said.id.desc()),
    )
    ranked = (
        select(said.task_id, said.digest, place.label("place"))
        .join(TaskRecord, TaskRecord.id == said.task_id)
        .where(TaskRecord.project_id == db.id, TaskRecord.finished.is_(True), TaskRecord.broken == "")
        .where(said.project_id == db.id, said.was_cancelled.is_(False))
        .subquery()
    )
    query = select(ranked.c.task_id, ranked.c.digest).where(ranked.c.place == 1).order_by(ranked.c.task_id)
    with db.read() as session:
        return {task: digest for task, digest in session.execute(query)}


def task_images(db: ProjectStore) -> dict[int, str]:
    """Address of the image of every task."""
    query = select(TaskRecord.id, TaskRecord.image).where(TaskRecord.project_id == db.id)
    with db.read() as session:
        return {task: image for task, image in session.execute(query)}


def note_image_errors(db: ProjectStore, errors: Mapping[int, str]) -> None:
    """Store why images of tasks could not be read; an empty text clears an earlier reason."""
    query = select(TaskRecord.id, TaskRecord.image_error).where(TaskRecord.project_id == db.id)
    with db.read() as session:
        stored = {task: text for task, text in session.execute(query)}
    changed = {task: text for task, text in errors.items() if stored.get(task, text) != text}
    if not changed:
        return
    with db.write() as session:
        for task, text in changed.items():
            record = session.get(TaskRecord, task)
            if record is not None:
                record.image_error = text
