"""How often classes of pictures are right, where the truth is known: those of the model, those of a person.

The truth about the model are the pictures of the test split, which it was not trained on. The truth about a
person's answer is what somebody else said of the same picture in Label Studio itself, not by an invite, or
what was marked as ground truth there. How often a person agrees with the model is no such figure: both may be
wrong.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sync.dashboard.figures import share_range
from sync.review.outbox import CLASSES
from sync.rounds.few_pictures import FEW_PICTURES
from sync.rounds.region_rows import tags_of
from sync.rounds.task_queries import effective_annotation
from sync.store.review_tables import InviteRecord, OutboxRecord
from sync.store.tables import AnnotationRecord, RoundRecord
from sync.web.review.candidates import parts
from sync.web.review.sessions import Person

__all__ = ["model_accuracy", "own_accuracy"]


def model_accuracy(session: Session, project_id: int, version: str) -> dict[str, Any] | None:
    """Share of test pictures whose class a version names right, with its 95 % interval; None: not measured.

    With too few pictures there is only their number.
    """
    query = select(RoundRecord.figures).where(
        RoundRecord.project_id == project_id, RoundRecord.model_version == version
    )
    trained = [figures.get("train", {}) for figures in session.scalars(query.order_by(RoundRecord.number))]
    measured = next((train for train in trained if "accuracy" in train.get("metrics", {})), None)
    if measured is None:
        return None
    pictures = int(measured.get("n_test", 0))
    if pictures < FEW_PICTURES:
        return {"pictures": pictures}
    value, low, high = measured["metrics"]["accuracy"]
    return {"share": float(value), "low": float(low), "high": float(high), "pictures": pictures}


def own_accuracy(session: Session, person: Person) -> dict[str, Any] | None:
    """How many of a person's answers are right among those whose truth is known; None where none is."""
    query = select(OutboxRecord.task_id, OutboxRecord.value).where(
        OutboxRecord.person == person.id,
        OutboxRecord.project_id == person.project_id,
        OutboxRecord.mode == CLASSES,
        OutboxRecord.withdrawn.is_(False),
        OutboxRecord.is_skip.is_(False),
    )
    said = {int(task): {str(one) for one in value["choices"]} for task, value in session.execute(query)}
    truth = _truth(session, person, sorted(said))
    right = sum(said[task] == true for task, true in truth.items())
    found = share_range(right, len(truth))
    if found is None:
        return None
    return {"right": right, "of": found.n, "low": found.low, "high": found.high}


def _truth(session: Session, person: Person, tasks: list[int]) -> dict[int, set[str]]:
    """Classes of the pictures of which somebody knows them, by task."""
    invited = set(
        session.scalars(select(InviteRecord.label_user).where(InviteRecord.label_user.is_not(None)))
    )
    known: dict[int, list[AnnotationRecord]] = defaultdict(list)
    for part in parts(tasks):
        rows = session.scalars(
            select(AnnotationRecord).where(
                AnnotationRecord.project_id == person.project_id,
                AnnotationRecord.task_id.in_(part),
                AnnotationRecord.broken == "",
            )
        )
        for row in rows:
            if row.ground_truth or row.completed_by not in invited:
                known[row.task_id].append(row)
    spoken = {task: effective_annotation(rows) for task, rows in known.items()}
    return {task: set(tags_of(row.regions)) for task, row in spoken.items() if row is not None}
