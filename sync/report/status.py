"""Status: what runs, what each project holds, and the figures of its last round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    DecisionRecord,
    LeaseRecord,
    ProjectRecord,
    QuestionRecord,
    RoundRecord,
    SplitRecord,
    TaskRecord,
)

__all__ = ["project_status", "status", "status_lines"]

_SHOWN_FOR_EXPERTS = 3
"""links printed; all are in the JSON"""


def status(settings: Settings, store: Store) -> dict[str, Any]:
    """Everything ``groundswell status --json`` prints: workers at work, services, projects."""
    now = datetime.now(UTC)
    with store.read() as session:
        leases = session.scalars(select(LeaseRecord).where(LeaseRecord.holder != "")).all()
        projects = session.scalars(select(ProjectRecord).order_by(ProjectRecord.id)).all()
        found = [project_status(settings, session, project) for project in projects]
    ttl = timedelta(seconds=settings.lease_ttl_s)
    return {
        "services": {
            "label_studio": _health(f"{settings.studio_url}/health"),
            "backend": _health(f"{settings.backend_url}/health"),
        },
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
    questions = select(func.count()).where(QuestionRecord.project_id == project.id)
    return {
        "id": project.id,
        "title": project.title,
        "error": project.error,
        "pulled_at": None if project.pulled_at is None else project.pulled_at.isoformat(timespec="seconds"),
        "tasks": session.scalar(tasks),
        "finished": session.scalar(tasks.where(TaskRecord.finished.is_(True))),
        "skipped": session.scalar(annotations.where(AnnotationRecord.was_cancelled.is_(True))),
        "test_split": session.scalar(select(func.count()).where(SplitRecord.project_id == project.id)),
        "broken": [{"task": task, "reason": reason or image} for task, reason, image in broken],
        "questions": session.scalar(questions),
        "answers": session.scalar(select(func.count()).where(AnswerRecord.project_id == project.id)),
        "serving": ModelRegistry(settings.data_dir).current(project.id),
        "click_model": _current_click_model(settings, project.id),
        "rounds": [_round_status(session, record) for record in rounds],
    }


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


def status_lines(found: dict[str, Any]) -> list[str]:
    """The status as lines for people."""
    lines = [
        f"Label Studio  {found['services']['label_studio']}",
        f"backend       {found['services']['backend']}",
    ]
    lines += [
        f"at work       {row['what']} ({row['worker']}, last sign of life {row['silent_s']} s ago)"
        for row in found["at_work"]
    ] or ["at work       nobody"]
    for project in found["projects"]:
        lines += ["", *_project_lines(project)]
    if not found["projects"]:
        lines += ["", "no project takes part yet: create one with `groundswell init`"]
    return lines


def _project_lines(project: dict[str, Any]) -> list[str]:
    lines = [
        f"project {project['id']}  {project['title']}",
        f"  tasks      {project['tasks']}, finished {project['finished']}, skipped {project['skipped']}, "
        f"broken {len(project['broken'])}, test split {project['test_split']}",
        f"  serving    {project['serving'] or 'nothing yet'}"
        + (f", clicks by {project['click_model']}" if project["click_model"] else ""),
    ]
    if project["error"]:
        lines.append(f"  error      {project['error']}")
    lines += [f"  task {row['task']}: {row['reason']}" for row in project["broken"][:5]]
    if len(project["broken"]) > 5:
        lines.append(f"  … and {len(project['broken']) - 5} more broken tasks (--json lists them)")
    if project["rounds"]:
        lines += _round_lines(project["rounds"][-1])
    return lines


def _round_lines(record: dict[str, Any]) -> list[str]:
    figures = record["figures"]
    lines = [f"  round {record['number']}    {record['step']} done, {record['model_version']}"]
    if record["failed"]:
        lines.append(f"    failed   {record['failed']}")
    train = figures.get("train", {})
    for name in ("AP", "AP50"):
        if name in train.get("metrics", {}):
            value, low, high = train["metrics"][name]
            lines.append(
                f"    {name:<8} {value:.3f} (95 % interval {low:.3f}–{high:.3f}, "
                f"{train['n_test']} test images, trained on {train['n_train']})"
            )
    if "cluster" in figures:
        sizes = ", ".join(f"{label} {size}" for label, size in figures["cluster"]["pool"].items())
        lines.append(f"    pool     {sizes}")
    review = figures.get("review")
    if review:
        per = review["masks_per_question"]
        lines.append(
            f"    review   {review['answered']} of {review['asked']} questions answered, "
            f"{review['accepted']} masks accepted ({review['verified']} seen one by one), "
            f"{review['rejected']} rejected" + (f", {per} masks per question" if per is not None else "")
        )
        lines += [
            f"    audit    {row['label']}: {row['good']} of {row['asked']} accepted masks looked at were "
            f"good, purity {row['lower']:.2f}–{row['upper']:.2f} ({row['confidence']:.0%})"
            for row in review.get("audits", [])
        ]
        if review.get("expert_queue"):
            lines.append(
                f"    expert   {review['expert_queue']} questions used up their workers (--json lists them)"
            )
            lines += [
                f"             {row['label']}: {row['url']}" for row in review["expert"][:_SHOWN_FOR_EXPERTS]
            ]
        workers = review.get("workers", [])
        lines += [_worker_line(row) for row in workers]
        lines += _crowd_lines(workers, review.get("policy", ""))
    clicks = figures.get("clicks", {})
    if clicks.get("failed"):
        lines.append(f"    clicks   network not trained: {clicks['failed']}")
    elif "version" in clicks:
        how = "serves" if clicks["serves"] else "does not beat the segmenter"
        lines.append(f"    clicks   {clicks['version']} {how}")
        lines += [f"             {clicks['reason']}"] if clicks.get("reason") else []
    if record["pushed"]:
        lines.append(f"    shown    {record['pushed']}")
    spent = {step: row["seconds"] for step, row in figures.items() if "seconds" in row}
    if spent:
        lines.append("    seconds  " + ", ".join(f"{step} {seconds}" for step, seconds in spent.items()))
    return lines


def _worker_line(row: dict[str, Any]) -> str:
    """One review worker: how many answers, how good, and whether they still count."""
    parts = [f"{row['answers']} answers"]
    if row["seconds"] is not None:
        parts.append(f"{row['seconds']:.1f} s each")
    if row["agreement"] is not None:
        parts.append(f"agrees in {row['agreement']:.0%}")
    parts.append(f"finds {row['sensitivity']:.2f} of the good and {row['specificity']:.2f} of the bad masks")
    if row["gold"]:
        (a, b), (c, d) = row["sensitivity_interval"], row["specificity_interval"]
        parts.append(f"on {row['gold']} gold {a:.2f}–{b:.2f} and {c:.2f}–{d:.2f}")
    if row["suspended"]:
        parts.append(f"suspended: {', '.join(row['reasons'])}")
    return f"    worker {row['worker']}: {', '.join(parts)}"


def _crowd_lines(workers: Sequence[dict[str, Any]], policy: str) -> list[str]:
    """How the workers whose answers count did on gold, and how to make the test allow for it.

    Of one answer each: verdicts of several answers err less, so that the test stays on the safe side.
    """
    counted = [row["gold_counts"] for row in workers if not row["suspended"] and "gold_counts" in row]
    yes, good, no, bad = (sum(column) for column in zip(*counted, strict=True)) if counted else (0, 0, 0, 0)
    if not good or not bad:
        return []
    line = f"    crowd    said yes to {yes} of {good} good and no to {no} of {bad} bad gold masks"
    if policy not in ("auto", "certified"):
        return [line]
    option = "GROUNDSWELL_POLICY_OPTIONS='" + json.dumps({"gold": [yes, good, no, bad]}) + "'"
    return [line, f"             to certify with these errors allowed for: {option}"]


def _current_click_model(settings: Settings, project_id: int) -> str:
    path = ProjectPaths(settings.data_dir, project_id).clicks / "current"
    return path.read_text().strip() if path.exists() else ""


def _health(url: str) -> str:
    import httpx

    try:
        reply = httpx.get(url, timeout=2.0)
    except httpx.HTTPError as error:
        return f"not reachable at {url} ({type(error).__name__})"
    if reply.status_code != 200:
        return f"HTTP {reply.status_code} from {url}"
    return f"running at {url.removesuffix('/health')}"
