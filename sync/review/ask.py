"""Ask: turn questions into review tasks, each made once, and make the review projects that hold them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_backend.errors import StudioError
from ml_backend.images.signed_links import crop_url
from ml_backend.images.store import ImageStore
from ml_backend.kinds.instances import INSTANCES
from ml_backend.label_studio.label_config import LabelConfig
from sync.executor.choice import executor_of
from sync.review.answers import ReviewTask, review_owner, review_project_of, store_read_tasks
from sync.review.crops import make_crops
from sync.review.question import FORMS, Question
from sync.review.review_project import ensure_review_project
from sync.review.review_tasks import KEY_FIELD, sheet_key, sheet_task, single_task
from sync.rounds.progress import Memo, Progress
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord
from sync.studio.protocol import StudioClient

__all__ = ["Asked", "NewTask", "ask", "tasks_to_ask"]

_log = logging.getLogger(__name__)
_SHEET_SIZE = 9
_LARGEST_SHEET = 36
_IMPORT_ROWS = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """How many questions were asked, and why pictures of tasks could not be shown."""

    count: int
    unreadable: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewTask:
    """A review task to be made."""

    key: str
    questions: tuple[Question, ...]


def tasks_to_ask(form: str, questions: Sequence[Question], there: Mapping[str, int]) -> list[NewTask]:
    """The review tasks that these questions still need; ``there``: keys of those that exist."""
    if form == "single":
        tasks = [NewTask(question.key, (question,)) for question in questions]
    else:
        tasks = [NewTask(sheet_key(group), tuple(group)) for group in _sheets(questions)]
    return [task for task in tasks if task.key not in there]


def ask(
    db: ProjectStore,
    review_studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    images: ImageStore,
    progress: Progress,
    memo: Memo,
    questions: Sequence[Question],
) -> Asked:
    """Import these questions as review tasks; those that exist already are left out.

    When a picture cannot be read, only its own questions are left out. Raises StudioError.
    """
    errors = make_crops(db, settings, images, progress, executor_of(settings, memo), questions)
    urls: dict[str, str] = {}
    unreadable: dict[int, str] = {}
    for question in questions:
        error = errors.get(question.instance)
        if error is None:
            urls[question.key] = crop_url(settings, db.id, question.instance)
        else:
            unreadable[question.task_id] = error
            _log.warning("project %s: question %s is not asked: %s", db.id, question.key, error)
    count = 0
    for number, form in enumerate(FORMS):
        mine = [question for question in questions if question.form == number and question.key in urls]
        if not mine:
            continue
        review_id = _ensure_project(db, review_studio, config, settings, form)
        todo = tasks_to_ask(form, mine, review_studio.task_values(review_id, KEY_FIELD))
        for start in range(0, len(todo), _IMPORT_ROWS):
            part = todo[start : start + _IMPORT_ROWS]
            progress.at("review.ask")
            ids = review_studio.import_tasks(
                review_id, [_task_data(form, task, urls, config) for task in part]
            )
            made = [_made(task_id, number, task, urls) for task_id, task in zip(ids, part, strict=True)]
            with db.write() as session:
                store_read_tasks(session, db.id, made)
            count += sum(len(task.questions) for task in part)
    return Asked(count, unreadable)


def _made(task_id: int, form: int, task: NewTask, urls: Mapping[str, str]) -> ReviewTask:
    pictures = tuple((question.instance, urls[question.key]) for question in task.questions)
    return ReviewTask(task_id, form, task.key, is_open=True, pictures=pictures, questions=task.questions)


def _sheets(questions: Sequence[Question]) -> list[list[Question]]:
    """Contact sheets: as the policy laid them out; other questions by label and cluster, nine to a sheet.

    Cards of one label stand together.
    """
    groups: dict[tuple[int, str, int, int], list[Question]] = defaultdict(list)
    for question in questions:
        by_policy = question.sheet >= 0
        alike = ("", -1, -1) if by_policy else (question.label, question.cluster, question.stream)
        groups[question.sheet, *alike].append(question)
    sheets = [
        group[start : start + size]
        for (sheet, *_), group in groups.items()
        for size in [_LARGEST_SHEET if sheet >= 0 else _SHEET_SIZE]
        for start in range(0, len(group), size)
    ]
    return [sorted(sheet, key=lambda question: question.label) for sheet in sheets]


def _task_data(form: str, task: NewTask, urls: Mapping[str, str], config: LabelConfig) -> dict[str, Any]:
    first = task.questions[0]
    # a question of a label that was removed meanwhile is asked as one about an object
    kind = config.kind_of(first.label) if first.label in config.labels else INSTANCES
    if form == "single":
        return single_task(first, urls[task.key], kind)
    return sheet_task(task.questions, [urls[question.key] for question in task.questions], kind)


def _ensure_project(
    db: ProjectStore, review_studio: StudioClient, config: LabelConfig, settings: Settings, form: str
) -> int:
    known = review_project_of(db, form)
    if known is not None:
        return known
    review_id = ensure_review_project(
        review_studio,
        review_owner(db, settings),
        db.title,
        form=form,
        wanted=config.wanted,
        maximum_annotations=settings.review_overlap,
    )
    _ensure_webhook(db, review_studio, settings, review_id)
    with db.write() as session:
        record = session.get_one(ProjectRecord, db.id)
        if form == "single":
            record.review_project_id = review_id
        else:
            record.sheet_project_id = review_id
    return review_id


def _ensure_webhook(
    db: ProjectStore, review_studio: StudioClient, settings: Settings, review_id: int
) -> None:
    """Let answers shorten the wait for the next look; without a webhook the worker just looks as usual."""
    secret = settings.webhook_secret.get_secret_value()
    if not secret:
        return
    backend = settings.inner_backend_url
    try:
        review_studio.ensure_webhook(review_id, f"{backend}/webhook?project={db.id}", secret=secret)
    except StudioError as error:
        _log.warning("review project %s has no webhook: %s", review_id, error)
