"""What went wrong in a project, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from sync.dashboard.figures import Trouble
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord, RoundRecord, TaskRecord

__all__ = ["troubles"]

_SHOWN = 20


def troubles(
    db: ProjectStore, settings: Settings, project: ProjectRecord, rounds: Sequence[RoundRecord]
) -> tuple[Trouble, ...]:
    """The last look's error, failed rounds, tasks that cannot be used, answers that cannot be read."""
    found = []
    if project.gone_at is not None:
        found.append(
            Trouble(
                "Label Studio no longer has this project",
                f"first noticed {project.gone_at:%Y-%m-%d %H:%M} UTC",
                f"Restore it in Label Studio, or let it leave: groundswell project remove {db.id}",
            )
        )
    if project.error:
        found.append(
            Trouble(
                "The last look at this project failed",
                project.error,
                "It is tried again at every look. Mend what the message names; "
                "groundswell doctor checks addresses, tokens and folders",
            )
        )
    if rounds:
        found += _of_round(rounds[-1])
    return (*found, *_broken_tasks(db, settings))


def _of_round(record: RoundRecord) -> list[Trouble]:
    found = []
    if record.failed:
        found.append(
            Trouble(
                f"Round {record.number} could not be trained",
                record.failed,
                "The version before keeps serving. Training is tried three times, then again when its "
                "options or labels change. Start a round to try at once",
            )
        )
    review: Mapping[str, Any] = record.figures.get("review", {})
    found += [
        Trouble(
            f"Answers to review task {row['review_task']} cannot be read",
            str(row["reason"]),
            "They do not count. Open the task, and answer it again or delete it",
            str(row["url"]),
        )
        for row in (review.get("unreadable") or [])[:_SHOWN]
    ]
    clicks: Mapping[str, Any] = record.figures.get("clicks", {})
    if clicks.get("failed"):
        found.append(
            Trouble(
                "The click network could not be trained",
                str(clicks["failed"]),
                "Clicks go on with the segmenter of before; nothing else is affected",
            )
        )
    return found


def _broken_tasks(db: ProjectStore, settings: Settings) -> list[Trouble]:
    query = (
        select(TaskRecord.id, TaskRecord.broken, TaskRecord.image_error)
        .where(TaskRecord.project_id == db.id, (TaskRecord.broken != "") | (TaskRecord.image_error != ""))
        .order_by(TaskRecord.id)
    )
    with db.read() as session:
        rows = session.execute(query).all()
    studio = settings.shown_studio_url
    found = [
        Trouble(
            f"Task {task} is left out",
            broken or image_error,
            "Open the task and annotate it again"
            if broken
            else "Check that the picture can be opened where Label Studio takes it from; it is tried again",
            f"{studio}/projects/{db.id}/data?task={task}",
        )
        for task, broken, image_error in rows[:_SHOWN]
    ]
    if len(rows) > _SHOWN:
        found.append(
            Trouble(
                f"{len(rows) - _SHOWN} more tasks are left out",
                "for reasons like these",
                f"groundswell status --json lists them all ({len(rows)})",
            )
        )
    return found
