"""The queue of answers given on the review page: an answer is kept from the moment this has taken it.

One row holds the answer of one person to one task. An answer that arrives twice is stored once, by its uuid
and by person and task. Taking it back and answering anew change the row, and ``sync.review.flush`` brings
Label Studio level with it, whether or not the answer was written there already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ml_backend.errors import BadInput
from sync.store.review_tables import OutboxRecord

__all__ = [
    "CLASSES",
    "LAST_ANSWERS",
    "QUESTIONS",
    "Mode",
    "NewAnswer",
    "Waiting",
    "choices_result",
    "find_answer",
    "put_answer",
    "take_back",
    "waiting",
]

Mode = Literal["questions", "classes"]
QUESTIONS: Final[Mode] = "questions"
"""answers to review tasks, in the Label Studio of the review projects"""
CLASSES: Final[Mode] = "classes"
"""classes of pictures, in the label project itself"""
LAST_ANSWERS: Final = 10
"""how many of their newest answers a person may take back"""
_UUIDS: Final = 20


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """An answer as the page's routes have checked it; the fields are those of ``OutboxRecord``."""

    uuid: str
    mode: Mode
    project_id: int
    task_id: int
    form: str
    label: str
    value: Mapping[str, Any]
    suggested: Sequence[str]
    result: Sequence[Mapping[str, Any]]
    is_skip: bool
    seconds: float
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Answers that Label Studio does not hold yet: how many, how many failed, and why the last did."""

    count: int
    refused: int
    error: str = ""


def choices_result(name: str, to_name: str, choices: Sequence[str], uuid: str) -> list[dict[str, Any]]:
    """The result that Label Studio's own form sends for ticked choices; it is empty when none is."""
    if not choices:
        return []
    return [
        {
            "value": {"choices": list(choices)},
            "id": uuid.replace("-", "")[:10],
            "from_name": name,
            "to_name": to_name,
            "type": "choices",
            "origin": "manual",
        }
    ]


def find_answer(session: Session, person: str, mode: str, task_id: int) -> OutboxRecord | None:
    """The row of a person and a task, also when the answer was taken back."""
    return session.scalars(
        select(OutboxRecord).where(
            OutboxRecord.person == person, OutboxRecord.mode == mode, OutboxRecord.task_id == task_id
        )
    ).one_or_none()


def put_answer(session: Session, person: str, user: int, answer: NewAnswer, now: datetime) -> OutboxRecord:
    """Keep an answer, in a write session; it is safe once that is committed.

    An answer whose uuid is known changes nothing. Raises BadInput when this person answered the task already,
    with something else.
    """
    row = find_answer(session, person, answer.mode, answer.task_id)
    if row is not None and answer.uuid in row.uuids:
        return row
    if row is not None and not row.withdrawn:
        if row.value == dict(answer.value):
            return row
        raise BadInput("you answered this one already", hint="Undo that answer first", field="card")
    if row is None:
        row = OutboxRecord(
            person=person,
            mode=answer.mode,
            project_id=answer.project_id,
            task_id=answer.task_id,
            uuids=[],
            revision=0,
            written=0,
            tries=0,
            error="",
            claimed_by="",
        )
        session.add(row)
    row.form, row.label, row.user = answer.form, answer.label, user
    row.uuids = [*row.uuids, answer.uuid][-_UUIDS:]
    row.value, row.suggested = dict(answer.value), list(answer.suggested)
    row.result = [dict(item) for item in answer.result]
    row.is_skip, row.seconds, row.right = answer.is_skip, answer.seconds, answer.right
    row.answered_at, row.withdrawn = now, False
    _changed(row)
    session.flush()
    return row


def take_back(session: Session, person: str, mode: str, task_id: int) -> OutboxRecord:
    """Take one of a person's last answers back, in a write session.

    Raises BadInput when there is no such answer, it is not among the last ten, or the person was told whether
    it was right: who may correct those is right about every gold question.
    """
    query = (
        select(OutboxRecord)
        .where(OutboxRecord.person == person, OutboxRecord.withdrawn.is_(False))
        .order_by(OutboxRecord.answered_at.desc(), OutboxRecord.id.desc())
        .limit(LAST_ANSWERS)
    )
    row = next((r for r in session.scalars(query) if (r.mode, r.task_id) == (mode, task_id)), None)
    if row is None:
        raise BadInput(
            f"this is none of your last {LAST_ANSWERS} answers", field="card", hint="It stays as it is"
        )
    if row.right is not None:
        raise BadInput("you were told whether it was right", field="card", hint="It stays as it is")
    row.withdrawn = True
    _changed(row)
    return row


def _changed(row: OutboxRecord) -> None:
    """Label Studio is behind: let the next flush try at once."""
    row.revision += 1
    row.tries, row.retry_at, row.error = 0, None, ""


def waiting(session: Session, *, project_id: int | None = None, person: str = "") -> Waiting:
    """What the queue still holds, of all projects or one, of all people or one."""
    behind = [OutboxRecord.written < OutboxRecord.revision]
    if project_id is not None:
        behind.append(OutboxRecord.project_id == project_id)
    if person:
        behind.append(OutboxRecord.person == person)
    count = session.scalar(select(func.count()).select_from(OutboxRecord).where(*behind)) or 0
    failing = select(OutboxRecord.error).where(*behind, OutboxRecord.error != "")
    errors = list(session.scalars(failing.order_by(OutboxRecord.sent_at.desc())))
    return Waiting(count, len(errors), errors[0] if errors else "")
