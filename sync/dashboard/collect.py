"""Collect the figures of a project from the store and the data directory; Label Studio is not asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, StorageError
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from sync.dashboard.agreement import agreement
from sync.dashboard.annotations import annotation_lines, answer_lines, finished_by_hand, speaking
from sync.dashboard.figures import ExpertRow, ProjectFigures
from sync.dashboard.invite_rows import invite_rows
from sync.dashboard.masks import accepted_by_label, label_rows, mask_rows, question_rows
from sync.dashboard.mistake_rows import mistake_rows, newest_mistakes
from sync.dashboard.names import names_of
from sync.dashboard.people import annotators, hours, workers
from sync.dashboard.quality import history_of, learning_curve, versions
from sync.dashboard.troubles import troubles
from sync.review.nouns import noun_of, plural
from sync.review.outbox import waiting
from sync.review.promise_text import promise_lines
from sync.rounds.due import training_wait, wait_text
from sync.rounds.kind_settings import kind_settings
from sync.rounds.progress import Memo
from sync.settings import Settings
from sync.store.database import Store, utc_now
from sync.store.project_store import ProjectStore
from sync.store.review_tables import InviteRecord, OutboxRecord
from sync.store.round_state import has_finished, reviewed_round
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    PersonRecord,
    ProjectRecord,
    RoundRecord,
    SplitRecord,
    TaskRecord,
)

__all__ = ["collect_project", "fingerprint", "project_record"]


def project_record(store: Store, project_id: int) -> ProjectRecord:
    """The row of a project. Raises BadInput when it does not take part."""
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
    if record is None:
        raise BadInput(
            f"project {project_id} does not take part",
            field="project",
            hint="`groundswell project list` lists those that do",
        )
    return record


def collect_project(
    settings: Settings,
    store: Store,
    project_id: int,
    *,
    kept: Memo | None = None,
) -> ProjectFigures:
    """Everything that is shown of a project.

    ``kept``: what later calls need not read and compare again.

    Raises BadInput when the project does not take part or its options are wrong, BadLabelConfig, StorageError
    and ModelError when its label config or files cannot be read.
    """
    kept = {} if kept is None else kept
    record = project_record(store, project_id)
    config = parse_label_config(record.label_config)
    own = kind_settings(settings.for_project(record.options), config.wanted)
    db = ProjectStore(record.id, record.key, record.title, store)
    paths = ProjectPaths(settings.data_dir, record.id)
    with db.read() as session:
        mine = select(RoundRecord).where(RoundRecord.project_id == db.id).order_by(RoundRecord.number)
        rounds = list(session.scalars(mine))
        tasks = select(func.count()).where(TaskRecord.project_id == db.id)
        n_tasks = session.scalar(tasks) or 0
        finished = session.scalar(tasks.where(TaskRecord.finished.is_(True))) or 0
        newest_split = select(func.max(SplitRecord.number)).where(SplitRecord.project_id == db.id)
        split = select(func.count()).where(
            SplitRecord.project_id == db.id, SplitRecord.number == newest_split.scalar_subquery()
        )
        n_test = session.scalar(split) or 0
    without_tags = any(target.is_of.tagged and target.is_of.unit != "picture" for target in config.wanted)
    lines = annotation_lines(db, without_tags=without_tags)
    answers = answer_lines(db)
    reviewed = next((one for one in reversed(rounds) if has_finished(one, "cluster")), None)
    spoken = speaking(lines)
    spared = accepted_by_label(paths, reviewed_round(rounds), but_for=finished_by_hand(spoken))
    review: Mapping[str, Any] = {} if reviewed is None else reviewed.figures.get("review", {})
    mistakes = newest_mistakes(paths, rounds)
    names = names_of(db, settings)
    measured = history_of(db, settings, config.wanted)
    listed = versions(db, settings, measured)
    compared = agreement(db, config, own, paths, lines, rounds, kept)
    kinds = dict.fromkeys(target.is_of.name for target in config.wanted)
    return ProjectFigures(
        id=db.id,
        title=db.title,
        kind=", ".join(kinds),
        noun=noun_of(config.wanted),
        labels=tuple(config.labels),
        tasks=n_tasks,
        finished=finished,
        skipped=sum(line.was_cancelled for line in lines),
        test_pictures=n_test,
        next_training=_next_training(db, config, own, paths, kept),
        retrain_after=own.retrain_after,
        serving=next((row.version for row in listed if row.serving), ""),
        round=rounds[-1].number if rounds else 0,
        pulled_at="" if record.pulled_at is None else record.pulled_at.isoformat(timespec="seconds"),
        promises=tuple(promise_lines(review, noun_of(config.wanted))) if review else (),
        curve=learning_curve(measured, {one.number: one for one in rounds}),
        masks=mask_rows(paths, lines, [one for one in rounds if one.figures]),
        questions=question_rows(rounds),
        hours=hours(lines, answers, spared, config),
        pools=label_rows(db, reviewed, accepted_by_label(paths, reviewed)),
        annotators=annotators(lines, compared, names.label),
        workers=workers(answers, review.get("workers") or (), names.review),
        experts=tuple(
            ExpertRow(str(row["label"]), int(row["task"]), str(row["url"]))
            for row in review.get("expert") or ()
        ),
        expert_count=int(review.get("expert_queue") or 0),
        versions=listed,
        troubles=troubles(db, own, record, rounds),
        has_clusters=reviewed is not None,
        backlog=_backlog(db),
        mistakes=() if mistakes is None else mistake_rows(own, db.id, mistakes),
        mistake_count=0 if mistakes is None else len(mistakes),
        mistakes_judged=0 if mistakes is None else sum(dict(mistakes.about.get("judged", {})).values()),
        invites=invite_rows(db, utc_now()),
        drawn=sum(line.regions for line in spoken.values()),
    )


def _next_training(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths, kept: Memo
) -> str:
    """When the next training is due, as a sentence; empty where a snapshot cannot be read."""
    try:
        return wait_text(training_wait(db, config, settings, paths, kept))
    except (OSError, ValueError, StorageError):
        return ""


def _backlog(db: ProjectStore) -> tuple[str, ...]:
    """Answers of the review page that Label Studio does not hold yet, in words."""
    with db.read() as session:
        held_back = waiting(session, project_id=db.id)
    lines = []
    if held_back.count:
        lines.append(f"{plural(held_back.count, 'answer')} of the review page on the way to Label Studio")
    if held_back.refused:
        lines.append(f"tried again: {held_back.refused}, {held_back.error}")
    return tuple(lines)


def fingerprint(settings: Settings, store: Store, project_id: int) -> str:
    """Changes whenever ``collect_project`` would say something else; a few counts, no rows."""
    paths = ProjectPaths(settings.data_dir, project_id)
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
        parts: list[object] = [None]
        if record is not None:
            parts = [record.title, record.error, record.gone_at, record.label_config, record.options]
        for table, column in (
            (RoundRecord, RoundRecord.updated_at),
            (TaskRecord, TaskRecord.updated_at),
            (AnnotationRecord, AnnotationRecord.updated_at),
            (AnswerRecord, AnswerRecord.updated_at),
        ):
            query = select(func.count(), func.max(column)).where(table.project_id == project_id)
            parts.append(tuple(session.execute(query).one()))
        waits = (OutboxRecord.project_id == project_id, OutboxRecord.written < OutboxRecord.revision)
        parts.append(session.execute(select(func.count(), func.max(OutboxRecord.error)).where(*waits)).one())
        invites = select(
            func.count(), func.count(InviteRecord.revoked_at), func.max(InviteRecord.seen_at)
        ).where(InviteRecord.project_id == project_id)
        parts.append(tuple(session.execute(invites).one()))
        over = select(func.count()).where(
            InviteRecord.project_id == project_id, InviteRecord.expires_at <= utc_now()
        )
        parts.append(session.scalar(over))
        parts.append(tuple(session.execute(select(func.count(), func.max(PersonRecord.read_at))).one()))
        broken = select(func.count()).where(
            TaskRecord.project_id == project_id, (TaskRecord.broken != "") | (TaskRecord.image_error != "")
        )
        parts.append(session.scalar(broken))
    listed = paths.mistakes_folder.glob("*.parquet")
    parts.append(sorted((path.name, path.stat().st_mtime_ns) for path in listed))
    parts.append(paths.current.read_text() if paths.current.exists() else "")
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
