"""Questions: from what a policy wants to know to keyed review tasks in Label Studio.

A question that is there already (answered or not) is not asked again; masks that need one more worker get a
review task with the next repeat number. Gold questions (masks people drew, some of them spoiled) and hidden
repeats are mixed in and look like any other.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.answers import Form, Questions, Stream
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.errors import StudioError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig
from sync.review.answers import keyed_tasks, review_project_of, store_questions
from sync.review.crops import CropLinks
from sync.review.gold_masks import spoiled
from sync.review.instructions import example_masks
from sync.review.review_project import (
    FORMS,
    HIDDEN,
    Question,
    ensure_review_project,
    sheet_key,
    sheet_task,
    single_task,
)
from sync.rounds.cluster import LabelPool
from sync.rounds.progress import Progress
from sync.rounds.region_rows import plain_rle
from sync.rounds.task_queries import finished_tasks
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord, QuestionRecord
from sync.studio.protocol import StudioClient

__all__ = [
    "ask",
    "gold_questions",
    "hidden_repeats",
    "new_questions",
    "repeat_questions",
    "spread",
]

_log = logging.getLogger(__name__)
_SHEET_SIZE = 9
_LARGEST_SHEET = 36
_IMPORT_ROWS = 200


def new_questions(
    db: ProjectStore,
    settings: Settings,
    round_number: int,
    pool: LabelPool,
    wanted: Questions,
    known: Sequence[QuestionRecord],
) -> list[Question]:
    """Those of the policy's questions that were not asked yet, in the policy's order."""
    asked = {(q.instance, q.stream) for q in known if q.label == pool.label}
    found = []
    for i in range(len(wanted)):
        row, stream = int(wanted.item[i]), int(wanted.stream[i])
        instance = str(pool.table.key[row])
        if (instance, stream) in asked:
            continue
        asked.add((instance, stream))
        form = _form(settings, int(wanted.form[i]))
        question = _question(db, round_number, pool, row, stream=stream, form=form)
        found.append(
            replace(
                question,
                cluster=int(wanted.cluster[i]),
                inclusion=float(wanted.inclusion[i]),
                sheet=int(wanted.sheet[i]),
            )
        )
    return found


def repeat_questions(
    db: ProjectStore,
    round_number: int,
    pool: LabelPool,
    rows: npt.NDArray[np.int64],
    known: Sequence[QuestionRecord],
    answered: frozenset[str],
    *,
    hidden: bool = False,
) -> list[Question]:
    """One more single question about each of these rows, unless one is still open."""
    by_instance: dict[str, list[QuestionRecord]] = defaultdict(list)
    for record in known:
        if record.label == pool.label:
            by_instance[record.instance].append(record)
    found = []
    for row in rows.tolist():
        before = by_instance[str(pool.table.key[row])]
        is_open = any(record.key not in answered for record in before)
        if is_open:
            continue
        stream = before[0].stream if before else int(Stream.SEARCH)
        repeat = len(before) + (HIDDEN if hidden else 0)
        question = _question(db, round_number, pool, row, stream=stream, form=int(Form.SINGLE), repeat=repeat)
        if before:
            question = replace(question, cluster=before[0].cluster, inclusion=before[0].inclusion)
        found.append(question)
    return found


def hidden_repeats(
    db: ProjectStore,
    settings: Settings,
    round_number: int,
    pool: LabelPool,
    questions: int,
    known: Sequence[QuestionRecord],
    answered: frozenset[str],
) -> list[Question]:
    """Some answered questions once more, to see who answers the same again: a share of ``questions``."""
    count = math.ceil(questions * settings.repeat_share)
    once = [q for q in known if q.key in answered and q.repeat == 0]
    if not count or not once:
        return []
    rng = np.random.default_rng([settings.seed, round_number, len(known), 1])
    rows = pool.rows_by_key()
    chosen = [once[int(i)] for i in rng.permutation(len(once))[:count]]
    there = np.array([rows[q.instance] for q in chosen if q.instance in rows], np.int64)
    return repeat_questions(db, round_number, pool, there, known, answered, hidden=True)


def gold_questions(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    round_number: int,
    pool: LabelPool,
    like: Sequence[Question],
    known: Sequence[QuestionRecord],
) -> list[Question]:
    """``gold_share`` questions whose answer is known: drawn masks, every other one spoiled near IoU 0.5.

    Each takes form, sheet, cluster and item of one of the questions ``like`` which it is asked: nothing in it
    tells it apart.
    """
    share = settings.gold_share
    count = math.ceil(len(like) * share / (1.0 - share) - 1e-9)
    if not count:
        return []
    asked = {question.instance for question in known}
    rng = np.random.default_rng([settings.seed, round_number, len(known)])
    drawn = [
        (task.id, region["rle"])
        for task, annotation in finished_tasks(db).values()
        for region in annotation.regions
        if region["label"] == pool.label and not task.image_error
    ]
    given_away = example_masks(paths)
    places = rng.permutation(len(drawn)).tolist()
    places.sort(key=lambda place: (drawn[place][0], str(drawn[place][1]["counts"])) in given_away)
    found: list[Question] = []
    for place in places:
        if len(found) == count:
            break
        task, rle = drawn[place]
        mask = rle if len(found) % 2 == 0 else spoiled(rle, rng)
        if mask is None:
            continue
        instance = instance_key(task, pool.label, str(mask["counts"]))
        if instance in asked:
            continue
        asked.add(instance)
        template = like[int(rng.integers(len(like)))]
        found.append(
            replace(
                template,
                key=Question.make_key(round_number, instance, template.stream, 0),
                task_id=task,
                instance=instance,
                repeat=0,
                rle=plain_rle(mask),
            )
        )
    return found


def ask(
    db: ProjectStore,
    review_studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    images: ImageStore,
    progress: Progress,
    questions: Sequence[Question],
) -> int:
    """Import these questions as review tasks, those that are there already left out; returns how many."""
    if not questions:
        return 0
    links = CropLinks(db, settings, images)
    asked = 0
    for number, form in enumerate(FORMS):
        mine = [question for question in questions if question.form == number]
        if not mine:
            continue
        review_id = _ensure_project(db, review_studio, config, settings, form)
        there = keyed_tasks(review_studio, review_id)
        groups = [[question] for question in mine] if form == "single" else _sheets(mine)
        todo = [
            (group, key)
            for group in groups
            if (key := group[0].key if form == "single" else sheet_key(group)) not in there
        ]
        for start in range(0, len(todo), _IMPORT_ROWS):
            part = [group for group, _ in todo[start : start + _IMPORT_ROWS]]
            progress.at("review.ask")
            data = [_task_data(form, group, links) for group in part]
            ids = review_studio.import_tasks(review_id, data)
            with db.write() as session:
                store_questions(session, db.id, dict(zip(ids, part, strict=True)))
            asked += sum(len(group) for group in part)
    return asked


def spread(questions: Sequence[Question], others: Sequence[Question], seed: int) -> list[Question]:
    """The others (gold, repeats) at random places among the questions, whose order stays."""
    mixed = list(questions)
    rng = np.random.default_rng([seed, len(questions), len(others)])
    for question in others:
        mixed.insert(int(rng.integers(len(mixed) + 1)), question)
    return mixed


def _question(
    db: ProjectStore, round_number: int, pool: LabelPool, row: int, *, stream: int, form: int, repeat: int = 0
) -> Question:
    instance = str(pool.table.key[row])
    return Question(
        key=Question.make_key(round_number, instance, stream, repeat),
        project_id=db.id,
        round=round_number,
        task_id=int(pool.table.task_id[row]),
        instance=instance,
        label=pool.label,
        item=row,
        cluster=-1,
        stream=stream,
        inclusion=1.0,
        form=form,
        repeat=repeat,
        prior=round(float(pool.pool.prior[row]), 6),
        rle=plain_rle(pool.table.rle(row)),
    )


def _form(settings: Settings, wanted: int) -> int:
    if settings.review_form == "auto":
        return wanted
    return FORMS.index(settings.review_form)


def _sheets(questions: Sequence[Question]) -> list[list[Question]]:
    """Contact sheets: those the policy laid out; what it did not, by label and cluster, nine to a sheet."""
    groups: dict[tuple[str, int, int, int], list[Question]] = defaultdict(list)
    for question in questions:
        by_policy = question.sheet >= 0
        cluster, stream = (-1, -1) if by_policy else (question.cluster, question.stream)
        groups[question.label, question.sheet, cluster, stream].append(question)
    return [
        group[start : start + size]
        for (_, sheet, _, _), group in groups.items()
        for size in [_LARGEST_SHEET if sheet >= 0 else _SHEET_SIZE]
        for start in range(0, len(group), size)
    ]


def _task_data(form: str, group: Sequence[Question], links: CropLinks) -> dict[str, Any]:
    if form == "single":
        return single_task(group[0], links.url(group[0]))
    return sheet_task(group, [links.url(question) for question in group])


def _ensure_project(
    db: ProjectStore, review_studio: StudioClient, config: LabelConfig, settings: Settings, form: str
) -> int:
    known = review_project_of(db, form)
    if known is not None:
        return known
    review_id = ensure_review_project(
        review_studio,
        db.id,
        db.title,
        form=form,
        labels=config.labels,
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
    settings = settings
    secret = settings.webhook_secret.get_secret_value()
    if not secret:
        return
    backend = (settings.backend_internal_url or settings.backend_url).rstrip("/")
    try:
        review_studio.ensure_webhook(review_id, f"{backend}/webhook?project={db.id}", secret=secret)
    except StudioError as error:
        _log.warning("review project %s has no webhook: %s", review_id, error)
