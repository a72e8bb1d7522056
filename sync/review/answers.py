"""Answers: bring questions and answers of the store level with the review projects in Label Studio.

A review task carries its questions, so this also rebuilds them for a store that was dropped. The answers of a
review task are replaced as a whole: changed, withdrawn and deleted ones leave nothing behind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ml_backend.errors import BadInput
from sync.review.review_project import FORMS, KEY_FIELD, Question, parse_answers, read_questions
from sync.rounds.progress import Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnswerRecord, ProjectRecord, QuestionRecord
from sync.studio.protocol import StudioClient, TaskRow

__all__ = ["pull_answers", "review_project_of", "store_questions"]

_log = logging.getLogger(__name__)
_BATCH = 200
_COLUMN = {"single": "review_project_id", "sheet": "sheet_project_id"}
_WATERMARK = {"single": "review_watermark", "sheet": "sheet_watermark"}


def review_project_of(db: ProjectStore, form: str) -> int | None:
    """Id of the review project of this form, None while nothing of this form was asked."""
    with db.read() as session:
        value: int | None = getattr(session.get_one(ProjectRecord, db.id), _COLUMN[form])
    return value


def pull_answers(
    db: ProjectStore, review_studio: StudioClient, settings: Settings, progress: Progress
) -> int:
    """Bring questions and answers level; returns how many review tasks had changed."""
    changed = 0
    for form in FORMS:
        review_id = review_project_of(db, form)
        if review_id is not None:
            changed += _pull_form(db, review_studio, settings, progress, form, review_id)
    return changed


def _pull_form(
    db: ProjectStore,
    review_studio: StudioClient,
    settings: Settings,
    progress: Progress,
    form: str,
    review_id: int,
) -> int:
    with db.read() as session:
        watermark: datetime | None = getattr(session.get_one(ProjectRecord, db.id), _WATERMARK[form])
    since = None if watermark is None else watermark - timedelta(seconds=settings.overlap_s)
    changed = 0
    rows = review_studio.tasks(review_id, changed_since=since)
    while batch := list(islice(rows, _BATCH)):
        progress.at("answers.batch")
        with db.write() as session:
            changed += _store_batch(session, db.id, batch)
            record = session.get_one(ProjectRecord, db.id)
            newest = max(row.updated_at for row in batch)
            known: datetime | None = getattr(record, _WATERMARK[form])
            if known is None or newest > known:
                setattr(record, _WATERMARK[form], newest)
    changed += _drop_deleted(db, review_studio, form, review_id)
    return changed


def _store_batch(session: Session, project_id: int, rows: Sequence[TaskRow]) -> int:
    """Questions and answers of some review tasks; how many of them were different from what is stored."""
    parsed: dict[int, list[Question]] = {}
    for row in rows:
        try:
            _, questions = read_questions(row.data)
        except BadInput as error:
            _log.warning("review task %s ignored: %s", row.id, error)
            continue
        parsed[row.id] = [question for question in questions if question.project_id == project_id]
    different = store_questions(session, project_id, parsed)
    stored: dict[int, list[AnswerRecord]] = {task: [] for task in parsed}
    query = select(AnswerRecord).where(
        AnswerRecord.project_id == project_id, AnswerRecord.review_task_id.in_(list(parsed))
    )
    for record in session.scalars(query):
        stored[record.review_task_id].append(record)
    for row in rows:
        if row.id in parsed:
            wanted = _answer_rows(project_id, row, {question.key for question in parsed[row.id]})
            if _replace_answers(session, stored[row.id], wanted):
                different.add(row.id)
    return len(different)


def _replace_answers(
    session: Session, stored: Sequence[AnswerRecord], wanted: dict[tuple[int, str], dict[str, Any]]
) -> bool:
    """Make the stored answers of one review task those wanted; True when anything was different."""
    different = False
    for record in stored:
        fresh = wanted.pop((record.annotation_id, record.question_key), None)
        if fresh is None:
            session.delete(record)
            different = True
            continue
        for name, value in fresh.items():
            if getattr(record, name) != value:
                setattr(record, name, value)
                different = True
    for fresh in wanted.values():
        session.add(AnswerRecord(**fresh))
        different = True
    return different


def store_questions(session: Session, project_id: int, by_task: Mapping[int, Sequence[Question]]) -> set[int]:
    """Make sure the questions of these review tasks are in the store; the tasks with a new one."""
    keys = [question.key for questions in by_task.values() for question in questions]
    known: dict[str, QuestionRecord] = {}
    for start in range(0, len(keys), 500):
        query = select(QuestionRecord).where(
            QuestionRecord.project_id == project_id, QuestionRecord.key.in_(keys[start : start + 500])
        )
        known |= {record.key: record for record in session.scalars(query)}
    different = set()
    for task, questions in by_task.items():
        for question in questions:
            record = known.get(question.key)
            if record is None:
                known[question.key] = record = QuestionRecord(**asdict(question), review_task_id=task)
                session.add(record)
                different.add(task)
            elif record.review_task_id != task:
                record.review_task_id = task
                different.add(task)
    return different


def _answer_rows(project_id: int, row: TaskRow, keys: set[str]) -> dict[tuple[int, str], dict[str, Any]]:
    found = {}
    for annotation in row.annotations:
        for answer in parse_answers(row.data, annotation):
            if answer.question_key in keys:
                found[annotation.id, answer.question_key] = {
                    "project_id": project_id,
                    "annotation_id": annotation.id,
                    "review_task_id": row.id,
                    "question_key": answer.question_key,
                    "worker": annotation.completed_by or 0,
                    "value": answer.value,
                    "seconds": answer.seconds,
                    "created_at": annotation.created_at,
                    "updated_at": annotation.updated_at,
                }
    return found


def _drop_deleted(db: ProjectStore, review_studio: StudioClient, form: str, review_id: int) -> int:
    """Questions of deleted review tasks go, with their answers; they are asked again if still wanted."""
    known = set(_review_tasks(db, form))
    if len(known) == review_studio.project(review_id).task_number:
        return 0
    gone = sorted(known - review_studio.task_ids(review_id))
    if gone:
        with db.write() as session:
            for start in range(0, len(gone), 500):
                ids = gone[start : start + 500]
                for table in (AnswerRecord, QuestionRecord):
                    session.execute(
                        delete(table).where(table.project_id == db.id, table.review_task_id.in_(ids))
                    )
    return len(gone)


def _review_tasks(db: ProjectStore, form: str) -> Iterator[int]:
    number = FORMS.index(form)
    query = (
        select(QuestionRecord.review_task_id)
        .where(QuestionRecord.project_id == db.id, QuestionRecord.form == number)
        .distinct()
    )
    with db.read() as session:
        yield from (task for task in session.scalars(query) if task is not None)


def keyed_tasks(review_studio: StudioClient, review_id: int) -> Mapping[str, int]:
    """Review tasks that are there by their key: what a killed import already sent."""
    return review_studio.task_values(review_id, KEY_FIELD)
