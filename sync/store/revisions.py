"""Revisions: marks in a project's row that change with every change of its tasks, or of its review.

A step that found nothing to do keeps the revision that it looked at. While the revision stays the same there
is nothing to do, and the step need not go through all tasks to know that. The marks are written in the same
transaction as the change, whoever makes it: every session of the store is watched, so that no writer can
forget it. They are random, so a store that was restored from a backup never has the mark of another state.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from sqlalchemy import event, update
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction, sessionmaker

from sync.store.tables import ProjectRecord

__all__ = ["new_mark", "watch"]

_MARKS: Final = {
    "tasks": "tasks_revision",
    "annotations": "tasks_revision",
    "test_split": "tasks_revision",
    "inferences": "tasks_revision",
    "questions": "review_revision",
    "answers": "review_revision",
    "review_tasks": "review_revision",
    "artifacts": "artifacts_revision",
}
"""the column of ``projects`` that stands for each table"""
_CHANGED: Final = "groundswell_changed"
_EVERY: Final = -1
"""in place of a project: a statement that changed rows without saying whose"""


def new_mark() -> str:
    """A mark that no state of the store has had."""
    return uuid.uuid4().hex


def watch(sessions: sessionmaker[Session]) -> None:
    """Let every session of this factory mark the projects whose rows it changes."""
    event.listen(sessions, "after_flush", _note_flushed)
    event.listen(sessions, "do_orm_execute", _note_executed)
    event.listen(sessions, "before_commit", _write_marks)
    event.listen(sessions, "after_soft_rollback", _forget)


def _note(session: Session, table: str, project_id: int) -> None:
    if table in _MARKS:
        session.info.setdefault(_CHANGED, set()).add((_MARKS[table], project_id))


def _note_flushed(session: Session, _context: UOWTransaction) -> None:
    changed = [*session.new, *session.deleted, *(row for row in session.dirty if session.is_modified(row))]
    for row in changed:
        _note(session, row.__tablename__, getattr(row, "project_id", _EVERY))


def _note_executed(state: ORMExecuteState) -> Any:
    if not (state.is_insert or state.is_update or state.is_delete):
        return None
    table = str(getattr(getattr(state.statement, "table", None), "name", ""))
    if table not in _MARKS:
        return None
    result: Any = state.invoke_statement()
    if getattr(result, "rowcount", -1) != 0:  # drivers that do not count say -1
        _note(state.session, table, _EVERY)
    return result


def _write_marks(session: Session) -> None:
    session.flush()
    changed: set[tuple[str, int]] = session.info.pop(_CHANGED, set())
    for column in sorted({column for column, _ in changed}):
        projects = {project for name, project in changed if name == column}
        statement = update(ProjectRecord).values({column: new_mark()})
        if _EVERY not in projects:
            statement = statement.where(ProjectRecord.id.in_(sorted(projects)))
        session.execute(statement, execution_options={"synchronize_session": False})


def _forget(session: Session, _previous: Any) -> None:
    session.info.pop(_CHANGED, None)
