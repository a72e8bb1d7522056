"""What Label Studio keeps about likely mistakes in the data of a task: the line that is shown, and that a
person said all is well."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import select

from sync.store.project_store import ProjectStore
from sync.store.tables import TaskRecord

__all__ = ["LINE_FIELD", "OK_FIELD", "dismissed_tasks", "mark_of", "shown_lines"]

LINE_FIELD: Final = "groundswell_look"
"""field of the task data: why to look at the task; a column of the Data Manager"""
OK_FIELD: Final = "groundswell_look_ok"
"""field of the task data: beginning of the digest of the annotation that a person found right"""
_MARK: Final = 12


def mark_of(digest: str) -> str:
    """The beginning of an annotation's digest, as ``OK_FIELD`` holds it."""
    return digest[:_MARK]


def dismissed_tasks(db: ProjectStore, tasks: Collection[int]) -> dict[int, str]:
    """The mark of each of the tasks that a person found right once."""
    return {task: mark for task, mark in _field(db, OK_FIELD).items() if task in tasks}


def shown_lines(db: ProjectStore) -> dict[int, str]:
    """The line that each task of the project shows, as far as the store knows."""
    return _field(db, LINE_FIELD)


def _field(db: ProjectStore, name: str) -> dict[int, str]:
    query = select(TaskRecord.id, TaskRecord.data).where(TaskRecord.project_id == db.id)
    with db.read() as session:
        return {task: str(data[name]) for task, data in session.execute(query) if data.get(name)}
