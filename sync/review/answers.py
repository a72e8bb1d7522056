"""Answers: bring questions and answers of the store level with the review projects in Label Studio.

A review task carries its questions, so this also rebuilds them for a store that was dropped. The answers of a
review task are replaced as a whole: changed, withdrawn and deleted ones leave nothing behind. A task that
cannot be read keeps what is stored of it and is reported.

``compare_review_tasks`` works out what is to be changed; ``store_review_tasks`` changes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ml_backend.errors import BadInput, StudioError
from sync.review.outbox import QUESTIONS
from sync.review.question import FORMS, Question
from sync.review.review_project import ReviewOwner, belongs_to_another, installation_id
from sync.review.review_tasks import KEY_FIELD, parse_answers, pictures_of, read_questions, sheet_key
from sync.rounds.progress import Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.review_tables import forget_deleted
from sync.store.tables import AnswerRecord, ProjectRecord, QuestionRecord, ReviewTaskRecord
from sync.studio.protocol import ProjectRow, StudioClient, TaskRow

__all__ = [
    "SKIP",
    "Answer",
    "ReviewChanges",
    "ReviewTask",
    "StoredReview",
    "compare_review_tasks",
    "pull_answers",
    "read_review_task",
    "review_owner",
    "review_project_of",
    "set_overlap",
    "store_read_tasks",
    "store_review_tasks",
]

_log = logging.getLogger(__name__)
_BATCH = 200
_BOUND_VALUES = 500
"""databases limit the number of values in one statement"""
_COLUMN = {"single": "review_project_id", "sheet": "sheet_project_id"}
_WATERMARK = {"single": "review_watermark", "sheet": "sheet_watermark"}
SKIP = "skip"
"""value of an answer: this person skipped the question"""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one annotation to one question; ``value`` is yes, no, unsure or skip."""

    annotation_id: int
    question_key: str
    review_task_id: int
    worker: int
    value: str
    seconds: float | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ReviewTask:
    """A review task as Label Studio holds it.

    ``is_open``: it is served to people. ``pictures``: instance and address of each crop. ``broken``: why the
    questions cannot be read, empty when they can. Tasks of another project have neither key nor questions.
    """

    id: int
    form: int
    key: str
    is_open: bool
    pictures: tuple[tuple[str, str], ...] = ()
    questions: tuple[Question, ...] = ()
    answers: tuple[Answer, ...] = ()
    broken: str = ""


@dataclass(frozen=True, slots=True)
class StoredReview:
    """What the store holds about some review tasks.

    ``tasks`` by id; ``questions``: review task of each question by key; ``answers`` by annotation and
    question.
    """

    tasks: Mapping[int, ReviewTask]
    questions: Mapping[str, int | None]
    answers: Mapping[tuple[int, str], Answer]


@dataclass(slots=True)
class ReviewChanges:
    """What the store lacks: rows to write, questions to move to another task, answers to delete."""

    tasks: list[ReviewTask] = field(default_factory=list)
    questions: list[tuple[Question, int]] = field(default_factory=list)
    moved: list[tuple[str, int]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    withdrawn: list[tuple[int, str]] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)
    """review tasks with a new question or another answer"""


def review_project_of(db: ProjectStore, form: str) -> int | None:
    """Id of the review project of this form, None while nothing of this form was asked."""
    with db.read() as session:
        value: int | None = getattr(session.get_one(ProjectRecord, db.id), _COLUMN[form])
    return value


def review_owner(db: ProjectStore, settings: Settings) -> ReviewOwner:
    """The owner that the descriptions of this project's review projects name. Raises StorageError."""
    return ReviewOwner(db.key, installation_id(settings.data_dir))


def pull_answers(
    db: ProjectStore, review_studio: StudioClient, settings: Settings, progress: Progress
) -> int:
    """Bring questions and answers level; returns how many review tasks had changed.

    Label Studio is only read. A review project that was deleted, or that belongs to another label project, is
    forgotten. When the next question is asked, the right one is found or a new one is made.
    """
    changed = 0
    owner = review_owner(db, settings)
    for form in FORMS:
        review_id = review_project_of(db, form)
        if review_id is None:
            continue
        row = _project_if_there(review_studio, review_id)
        if row is None or belongs_to_another(row, owner):
            reason = "was deleted" if row is None else "belongs to another project"
            _log.warning("project %s: review project %s %s and is forgotten", db.id, review_id, reason)
            _forget_form(db, form)
            continue
        changed += _pull_form(db, review_studio, settings, progress, form, row)
    return changed


def set_overlap(db: ProjectStore, review_studio: StudioClient, settings: Settings) -> None:
    """Bring the number of people who are served each review task to ``review_overlap``.

    The next pull then reads all review tasks: some of them open or close without a new date of change.
    """
    for form in FORMS:
        review_id = review_project_of(db, form)
        row = None if review_id is None else _project_if_there(review_studio, review_id)
        if row is None or row.maximum_annotations == settings.review_overlap:
            continue
        if belongs_to_another(row, review_owner(db, settings)):
            continue
        review_studio.set_maximum_annotations(row.id, settings.review_overlap)
        with db.write() as session:
            setattr(session.get_one(ProjectRecord, db.id), _WATERMARK[form], None)


def _project_if_there(studio: StudioClient, project_id: int) -> ProjectRow | None:
    try:
        return studio.project(project_id)
    except StudioError as error:
        if error.status != 404:
            raise
    return None


def _forget_form(db: ProjectStore, form: str) -> None:
    number = FORMS.index(form)
    tasks = select(ReviewTaskRecord.id).where(
        ReviewTaskRecord.project_id == db.id, ReviewTaskRecord.form == number
    )
    with db.write() as session:
        ids = list(session.scalars(tasks))
        _delete_tasks(session, db.id, ids)
        record = session.get_one(ProjectRecord, db.id)
        setattr(record, _COLUMN[form], None)
        setattr(record, _WATERMARK[form], None)


def _pull_form(
    db: ProjectStore,
    review_studio: StudioClient,
    settings: Settings,
    progress: Progress,
    form: str,
    row: ProjectRow,
) -> int:
    with db.read() as session:
        watermark: datetime | None = getattr(session.get_one(ProjectRecord, db.id), _WATERMARK[form])
    since = None if watermark is None else watermark - timedelta(seconds=settings.overlap_s)
    changed, newest = 0, watermark
    rows = review_studio.tasks(row.id, changed_since=since)
    while batch := list(islice(rows, _BATCH)):
        progress.at("answers.batch")
        newest = max([task.updated_at for task in batch] + ([] if newest is None else [newest]))
        with db.write() as session:
            changed += store_review_tasks(session, db.id, form, batch)
            if watermark is not None:
                setattr(session.get_one(ProjectRecord, db.id), _WATERMARK[form], newest)
    if watermark is None and newest is not None:  # until all are read, the review page takes none for deleted
        with db.write() as session:
            setattr(session.get_one(ProjectRecord, db.id), _WATERMARK[form], newest)
    return changed + _level_ids(db, review_studio, form, row)


def _level_ids(db: ProjectStore, review_studio: StudioClient, form: str, row: ProjectRow) -> int:
    """Forget deleted review tasks and fetch those that were never seen; how many there were of both.

    Questions of a deleted task are asked again if they are still needed, unless another task shows them too.
    """
    query = select(ReviewTaskRecord.id, ReviewTaskRecord.key).where(
        ReviewTaskRecord.project_id == db.id, ReviewTaskRecord.form == FORMS.index(form)
    )
    with db.read() as session:
        known = {task: key for task, key in session.execute(query)}
    if len(known) == row.task_number:
        return 0
    there = review_studio.task_ids(row.id)
    gone = sorted(known.keys() - there)
    keys = {known[task] for task in gone} - {""}
    doubles = {task for task in known.keys() & there if known[task] in keys}
    fetched = [review_studio.task(task) for task in sorted((there - known.keys()) | doubles)]
    with db.write() as session:
        _delete_tasks(session, db.id, gone)
        store_review_tasks(session, db.id, form, fetched)
    return len(gone) + len(there - known.keys())


def _delete_tasks(session: Session, project_id: int, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), _BOUND_VALUES):
        part = ids[start : start + _BOUND_VALUES]
        for table in (AnswerRecord, QuestionRecord):
            session.execute(
                delete(table).where(table.project_id == project_id, table.review_task_id.in_(part))
            )
        session.execute(
            delete(ReviewTaskRecord).where(
                ReviewTaskRecord.project_id == project_id, ReviewTaskRecord.id.in_(part)
            )
        )


def read_review_task(project_id: int, form: str, row: TaskRow) -> ReviewTask:
    """Read a review task of Label Studio: its questions and answers, or why it is ``broken``."""
    number, is_open = FORMS.index(form), not row.is_labeled
    try:
        _, questions = read_questions(row.data)
        urls = pictures_of(row.data)
    except BadInput as error:
        return ReviewTask(row.id, number, str(row.data.get(KEY_FIELD, ""))[:120], is_open, broken=str(error))
    mine = tuple(question for question in questions if question.project_id == project_id)
    if not mine:
        return ReviewTask(row.id, number, "", is_open)
    return ReviewTask(
        id=row.id,
        form=number,
        key=questions[0].key if form == "single" else sheet_key(questions),
        is_open=is_open,
        pictures=tuple((question.instance, url) for question, url in zip(questions, urls, strict=False)),
        questions=mine,
        answers=_answers(row, mine),
    )


def _answers(row: TaskRow, questions: Sequence[Question]) -> tuple[Answer, ...]:
    keys = {question.key for question in questions}
    found = []
    for annotation in row.annotations:
        if annotation.was_cancelled:
            said = [(question.key, SKIP, annotation.lead_time_s) for question in questions]
        else:
            raw = parse_answers(row.data, annotation)
            said = [(one.question_key, one.value, one.seconds) for one in raw if one.question_key in keys]
        found += [
            Answer(
                annotation_id=annotation.id,
                question_key=key,
                review_task_id=row.id,
                worker=annotation.completed_by or 0,
                value=value,
                seconds=seconds,
                created_at=annotation.created_at,
                updated_at=annotation.updated_at,
            )
            for key, value, seconds in said
        ]
    return tuple(found)


def compare_review_tasks(stored: StoredReview, found: Sequence[ReviewTask]) -> ReviewChanges:
    """The changes that bring the store level with the tasks found.

    Where two tasks show one question, it belongs to the one with the lower number, and the answers of both
    count. A task that cannot be read changes nothing but its own row.
    """
    changes = ReviewChanges()
    owner = dict(stored.questions)
    for task in sorted(found, key=lambda task: task.id):
        before = stored.tasks.get(task.id)
        plain = _without_content(task)
        if before is None or _without_content(before) != plain:
            changes.tasks.append(plain)
        if task.broken:
            if before is None or before.broken != task.broken:
                _log.warning("review task %s cannot be read: %s", task.id, task.broken)
            continue
        for question in task.questions:
            if question.key not in owner:
                changes.questions.append((question, task.id))
                changes.changed.add(task.id)
            elif (old := owner[question.key]) is None or task.id < old:
                changes.moved.append((question.key, task.id))
                changes.changed.add(task.id)
            else:
                continue
            owner[question.key] = task.id
        wanted = {(answer.annotation_id, answer.question_key): answer for answer in task.answers}
        held = {name: answer for name, answer in stored.answers.items() if answer.review_task_id == task.id}
        changes.answers += [answer for name, answer in wanted.items() if held.get(name) != answer]
        changes.withdrawn += [name for name in held if name not in wanted]
        if wanted != held:
            changes.changed.add(task.id)
    return changes


def _without_content(task: ReviewTask) -> ReviewTask:
    return ReviewTask(task.id, task.form, task.key, task.is_open, task.pictures, broken=task.broken)


def store_review_tasks(session: Session, project_id: int, form: str, rows: Sequence[TaskRow]) -> int:
    """Bring the store level with these review tasks; returns how many had changed questions or answers."""
    return store_read_tasks(session, project_id, [read_review_task(project_id, form, row) for row in rows])


def store_read_tasks(session: Session, project_id: int, found: Sequence[ReviewTask]) -> int:
    """As ``store_review_tasks``, for tasks that were read already or were made just now."""
    changes = compare_review_tasks(_load(session, project_id, found), found)
    _apply(session, project_id, changes)
    return len(changes.changed)


def _load(session: Session, project_id: int, found: Sequence[ReviewTask]) -> StoredReview:
    tasks: dict[int, ReviewTask] = {}
    questions: dict[str, int | None] = {}
    answers: dict[tuple[int, str], Answer] = {}
    ids = [task.id for task in found]
    for start in range(0, len(ids), _BOUND_VALUES):
        part = ids[start : start + _BOUND_VALUES]
        for record in session.scalars(
            select(ReviewTaskRecord).where(
                ReviewTaskRecord.project_id == project_id, ReviewTaskRecord.id.in_(part)
            )
        ):
            pictures = tuple((str(instance), str(url)) for instance, url in record.pictures)
            tasks[record.id] = ReviewTask(
                record.id, record.form, record.key, record.is_open, pictures, broken=record.broken
            )
        for row in session.scalars(
            select(AnswerRecord).where(
                AnswerRecord.project_id == project_id, AnswerRecord.review_task_id.in_(part)
            )
        ):
            values = {name: getattr(row, name) for name in Answer.__dataclass_fields__}
            answers[row.annotation_id, row.question_key] = Answer(**values)
    keys = [question.key for task in found for question in task.questions]
    for start in range(0, len(keys), _BOUND_VALUES):
        query = select(QuestionRecord.key, QuestionRecord.review_task_id).where(
            QuestionRecord.project_id == project_id,
            QuestionRecord.key.in_(keys[start : start + _BOUND_VALUES]),
        )
        questions |= {key: task for key, task in session.execute(query)}
    return StoredReview(tasks, questions, answers)


def _apply(session: Session, project_id: int, changes: ReviewChanges) -> None:
    for task in changes.tasks:
        session.merge(
            ReviewTaskRecord(
                project_id=project_id,
                id=task.id,
                form=task.form,
                key=task.key,
                is_open=task.is_open,
                pictures=[list(picture) for picture in task.pictures],
                broken=task.broken,
            )
        )
    for question, task_id in changes.questions:
        session.add(QuestionRecord(**asdict(question), review_task_id=task_id))
    session.flush()
    for key, task_id in changes.moved:
        record = session.scalars(
            select(QuestionRecord).where(QuestionRecord.project_id == project_id, QuestionRecord.key == key)
        ).one()
        record.review_task_id = task_id
    forget_deleted(session, project_id, QUESTIONS, [annotation for annotation, _ in changes.withdrawn])
    for annotation_id, key in changes.withdrawn:
        session.execute(delete(AnswerRecord).where(*_is_answer(project_id, annotation_id, key)))
    for answer in changes.answers:
        where = _is_answer(project_id, answer.annotation_id, answer.question_key)
        row = session.scalar(select(AnswerRecord).where(*where))
        if row is None:
            session.add(AnswerRecord(project_id=project_id, **asdict(answer)))
            continue
        for name, value in asdict(answer).items():
            setattr(row, name, value)


def _is_answer(project_id: int, annotation_id: int, key: str) -> tuple[Any, ...]:
    return (
        AnswerRecord.project_id == project_id,
        AnswerRecord.annotation_id == annotation_id,
        AnswerRecord.question_key == key,
    )
