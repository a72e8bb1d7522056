"""The figures of ``groundswell status``: what runs, what each project holds, what its rounds gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ml_backend.artifacts.files import read_name
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.serving.segmenter_note import read_note
from ml_backend.errors import BadInput, BadLabelConfig, StorageError
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.tls import tls_context
from sync.artifacts.figures import shared_figures
from sync.artifacts.manifest import read_manifest
from sync.review.nouns import noun_of
from sync.review.outbox import waiting
from sync.review.question import FORMS
from sync.rounds.due import training_wait, wait_text
from sync.rounds.positives_left import positives_left
from sync.settings import Settings
from sync.store.database import Store, database_now
from sync.store.project_store import ProjectStore
from sync.store.round_state import old_rounds
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    DecisionRecord,
    LeaseRecord,
    ProjectRecord,
    QuestionRecord,
    ReviewTaskRecord,
    RoundRecord,
    SplitRecord,
    TaskRecord,
)

__all__ = ["project_status", "project_titles", "status"]


def status(settings: Settings, store: Store, *, only: int | None = None) -> dict[str, Any]:
    """Everything ``groundswell status --json`` prints: workers at work, services, projects.

    ``only`` is the number of one project. Raises BadInput when it does not take part.
    """
    with store.read() as session:
        now = database_now(session)  # that of the leases, whatever the clock of this machine says
        leases = session.scalars(select(LeaseRecord).where(LeaseRecord.holder != "")).all()
        query = select(ProjectRecord).order_by(ProjectRecord.id)
        projects = session.scalars(query if only is None else query.where(ProjectRecord.id == only)).all()
        if only is not None and not projects:
            raise BadInput(
                f"project {only} does not take part",
                field="project",
                hint="`groundswell project list` lists those that do",
            )
        found = [project_status(settings, session, project) for project in projects]
    for record, figures in zip(projects, found, strict=True):
        figures["positives_left"] = _positives_left(settings, store, record, figures)
        figures["next_training"] = _next_training(settings, store, record)
    ttl = timedelta(seconds=settings.lease_ttl_s)
    shared = shared_figures(settings, store)
    return {
        "services": {
            "label_studio": _health(f"{settings.studio_url}/health"),
            "backend": _health(f"{settings.inner_backend_url}/health"),
        },
        "clicks": _clicks(settings),
        "shared_files": None if shared is None else {**asdict(shared), "line": shared.line},
        "at_work": [
            {
                "what": lease.name,
                "worker": lease.holder,
                "silent_s": round((now - lease.heartbeat_at).total_seconds(), 1),
            }
            for lease in leases
            if now - lease.heartbeat_at < ttl
        ],
        "projects": found,
    }


def _clicks(settings: Settings) -> dict[str, Any]:
    """What answers clicks and what would be better, as the backend said when it started."""
    note = read_note(settings.data_dir)
    return {"line": "", "better": []} if note is None else note.model_dump(mode="json")


def _positives_left(
    settings: Settings, store: Store, record: ProjectRecord, figures: dict[str, Any]
) -> dict[str, Any]:
    """See ``positives_left``; empty where the config or an order cannot be read: rounds tell of that."""
    db = ProjectStore(record.id, record.key, record.title, store)
    try:
        config = parse_label_config(record.label_config)
        versions = [row["model_version"] for row in figures["rounds"]]
        return positives_left(db, config, ProjectPaths(settings.data_dir, record.id), versions)
    except (BadLabelConfig, StorageError):
        return {}


def _next_training(settings: Settings, store: Store, record: ProjectRecord) -> dict[str, Any] | None:
    """See ``TrainingWait``; None where options, config or a snapshot cannot be read: rounds tell of that."""
    db = ProjectStore(record.id, record.key, record.title, store)
    try:
        config = parse_label_config(record.label_config)
        own = settings.for_project(record.options)
        wait = training_wait(db, config, own, ProjectPaths(settings.data_dir, record.id), {})
    except (BadInput, StorageError, OSError):
        return None
    return {**asdict(wait), "text": wait_text(wait)}


def project_titles(store: Store) -> dict[int, str]:
    """Title by number of the projects that take part, in the order of numbers."""
    with store.read() as session:
        rows = session.execute(select(ProjectRecord.id, ProjectRecord.title).order_by(ProjectRecord.id))
        return {int(number): str(title) for number, title in rows}


def project_status(settings: Settings, session: Session, project: ProjectRecord) -> dict[str, Any]:
    """Counts of one project and the figures of its rounds."""
    tasks = select(func.count()).where(TaskRecord.project_id == project.id)
    annotations = select(func.count()).where(AnnotationRecord.project_id == project.id)
    rounds = session.scalars(
        select(RoundRecord).where(RoundRecord.project_id == project.id).order_by(RoundRecord.number)
    ).all()
    broken = session.execute(
        select(TaskRecord.id, TaskRecord.broken, TaskRecord.image_error).where(
            TaskRecord.project_id == project.id, (TaskRecord.broken != "") | (TaskRecord.image_error != "")
        )
    ).all()
    splits = session.execute(
        select(SplitRecord.number, func.count())
        .where(SplitRecord.project_id == project.id)
        .group_by(SplitRecord.number)
        .order_by(SplitRecord.number)
    ).all()
    left_over = (
        select(AnnotationRecord.task_id)
        .where(AnnotationRecord.project_id == project.id, AnnotationRecord.clicks_left > 0)
        .where(AnnotationRecord.was_cancelled.is_(False))
        .distinct()
        .order_by(AnnotationRecord.task_id)
    )
    questions = select(func.count()).where(QuestionRecord.project_id == project.id)
    return {
        "id": project.id,
        "title": project.title,
        "noun": _noun(project),
        "error": project.error,
        "paused": project.paused,
        "round_wanted": None
        if project.round_wanted is None
        else project.round_wanted.isoformat(timespec="seconds"),
        "pulled_at": None if project.pulled_at is None else project.pulled_at.isoformat(timespec="seconds"),
        "tasks": session.scalar(tasks),
        "finished": session.scalar(tasks.where(TaskRecord.finished.is_(True))),
        "skipped": session.scalar(annotations.where(AnnotationRecord.was_cancelled.is_(True))),
        "test_split": splits[-1][1] if splits else 0,
        "test_split_number": splits[-1][0] if splits else 0,
        "undrawn_test": [] if not splits else _undrawn_test(session, project.id, splits[-1][0]),
        "broken": [{"task": task, "reason": reason or image} for task, reason, image in broken],
        "clicks_left": list(session.scalars(left_over)),
        "questions": session.scalar(questions),
        "answers": session.scalar(
            select(func.count()).where(AnswerRecord.project_id == project.id, AnswerRecord.value != "skip")
        ),
        "answer_at": _review_projects(settings, session, project),
        "queue": asdict(waiting(session, project_id=project.id)),
        "serving": ModelRegistry(settings.data_dir).current(project.id),
        "old_rounds": _old_rounds(settings, session, project, rounds),
        "segmenter": str(project.options.get("segmenter", "")),
        "click_model": _current_click_model(settings, project.id),
        "rounds": [_round_status(session, record) for record in rounds],
    }


def _undrawn_test(session: Session, project_id: int, number: int) -> list[int]:
    """Tasks of the test split of which people said what they show, but not where (kind ``weak``)."""
    query = (
        select(TaskRecord.id)
        .join(
            SplitRecord,
            (SplitRecord.project_id == TaskRecord.project_id) & (SplitRecord.task_id == TaskRecord.id),
        )
        .where(
            TaskRecord.project_id == project_id,
            TaskRecord.tagged_only.is_(True),
            SplitRecord.number == number,
        )
    )
    return list(session.scalars(query.order_by(TaskRecord.id)))


def _noun(project: ProjectRecord) -> str:
    """What an instance of the project is called."""
    try:
        return noun_of(parse_label_config(project.label_config).wanted)
    except BadLabelConfig:
        return noun_of(())  # the project's error says what is wrong with its config


def _review_projects(settings: Settings, session: Session, project: ProjectRecord) -> list[dict[str, Any]]:
    """Where people answer: each review project with its form, its address and how many tasks are open."""
    server = settings.shown_review_url
    counts = session.execute(
        select(ReviewTaskRecord.form, func.count())
        .where(ReviewTaskRecord.project_id == project.id, ReviewTaskRecord.is_open.is_(True))
        .group_by(ReviewTaskRecord.form)
    ).all()
    still_open = {FORMS[form]: count for form, count in counts}
    numbers = {"single": project.review_project_id, "sheet": project.sheet_project_id}
    return [
        {"form": form, "open": still_open.get(form, 0), "url": f"{server}/projects/{number}/data"}
        for form, number in numbers.items()
        if number is not None
    ]


def _round_status(session: Session, record: RoundRecord) -> dict[str, Any]:
    decisions = session.execute(
        select(DecisionRecord.action, func.count())
        .where(DecisionRecord.project_id == record.project_id, DecisionRecord.round == record.number)
        .group_by(DecisionRecord.action)
    ).all()
    return {
        "number": record.number,
        "model_version": record.model_version,
        "step": record.step,
        "review_done": record.review_done,
        "pushed": record.pushed,
        "failed": record.failed,
        "finished_tasks": record.finished_tasks,
        "started_at": record.started_at.isoformat(timespec="seconds"),
        "figures": record.figures,
        "decisions": {action: count for action, count in decisions},
    }


def _old_rounds(
    settings: Settings, session: Session, project: ProjectRecord, rounds: Sequence[RoundRecord]
) -> dict[str, Any]:
    """Rounds that newer ones replaced: how many have their pools here, only in the object store, or nowhere;
    and what is set.
    """
    paths = ProjectPaths(settings.data_dir, project.id)
    try:
        keep = settings.for_project(project.options).keep_rounds
    except BadInput:  # said elsewhere
        keep = None
    old = set(old_rounds(rounds, None).kept)
    here = [paths.pool(record.model_version).is_dir() for record in rounds if record.number in old]
    shared: set[str] = set()
    if settings.artifacts_url:
        shared = {path.split("/")[1] for path in read_manifest(session, project.id) if path[:6] == "pools/"}
    stored = [record.model_version in shared for record in rounds if record.number in old]
    return {
        "keep_rounds": keep,
        "with_pool": sum(here),
        "in_store_alone": sum(far and not near for near, far in zip(here, stored, strict=True)),
        "without_pool": sum(not (near or far) for near, far in zip(here, stored, strict=True)),
    }


def _current_click_model(settings: Settings, project_id: int) -> str:
    return read_name(ProjectPaths(settings.data_dir, project_id).clicks / "current") or ""


def _health(url: str) -> str:
    import httpx

    try:
        reply = httpx.get(url, timeout=2.0, verify=tls_context())
    except httpx.HTTPError as error:
        return f"not reachable at {url} ({type(error).__name__})"
    if reply.status_code != 200:
        return f"HTTP {reply.status_code} from {url}"
    return f"running at {url.removesuffix('/health')}"
