"""A person looked at a task and found its annotation right."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.errors import BadInput
from sync.mistakes.look_here import write_data
from sync.mistakes.marks import LINE_FIELD, OK_FIELD, mark_of
from sync.rounds.task_queries import finished_digests
from sync.store.project_store import ProjectStore
from sync.store.tables import TaskRecord
from sync.studio.protocol import StudioClient

__all__ = ["dismiss"]


def dismiss(db: ProjectStore, studio: StudioClient, tasks: Sequence[int]) -> None:
    """Take tasks off the list of likely mistakes, until their annotation changes.

    The mark is kept in Label Studio, in the data of the task, and so survives a rebuild. Raises BadInput,
    before anything is written, for a task that is not finished or not of this project.
    """
    digests = finished_digests(db)
    for task in tasks:
        if task not in digests:
            raise BadInput(
                f"task {task} is no finished task of project {db.id}",
                field="dismiss",
                hint="`groundswell mistakes` lists those that can be dismissed",
            )
    for task in tasks:
        mark = mark_of(digests[task])
        if not write_data(studio, task, {OK_FIELD: mark, LINE_FIELD: ""}):
            raise BadInput(f"task {task} was deleted in Label Studio", field="dismiss")
        with db.write() as session:  # as the next pull would find it
            record = session.get_one(TaskRecord, task)
            data = {name: value for name, value in record.data.items() if name != LINE_FIELD}
            record.data = {**data, OK_FIELD: mark}
