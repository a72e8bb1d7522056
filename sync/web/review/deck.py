"""The deck of one person: which cards they hold, and which they get next.

A card that was given is kept for its person for ``review_hold_s`` seconds. It may be answered after that as
well: nobody's work is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from sync.review.outbox import Mode
from sync.store.review_tables import CardRecord, OutboxRecord
from sync.web.access.errors import NotYet
from sync.web.review.sessions import Person

__all__ = ["answered_count", "being_read", "give", "held_card", "last_label"]


def being_read(project_id: int) -> NotYet:
    """Why an answer cannot be taken while a rebuild reads the project again; the page sends it again."""
    return NotYet(
        f"project {project_id} is being read from Label Studio",
        hint="Your answers are kept until that is done",
    )


def held_card(session: Session, person: Person, mode: Mode, task_id: int) -> CardRecord | None:
    """The card as it was given to this person, also when it was kept for them no longer; None if never."""
    return session.get(CardRecord, (person.id, mode, task_id))


def give(
    session: Session,
    person: Person,
    mode: Mode,
    tasks: Sequence[tuple[int, Sequence[str]]],
    *,
    hold_s: float,
    now: datetime,
) -> None:
    """Keep these tasks (with the classes suggested) for a person, in a write session."""
    for task_id, suggested in tasks:
        card = held_card(session, person, mode, task_id)
        if card is None:
            card = CardRecord(person=person.id, mode=mode, task_id=task_id, given_at=now)
            session.add(card)
        elif card.until <= now:
            card.given_at = now
        card.project_id, card.until = person.project_id, now + timedelta(seconds=hold_s)
        card.suggested = list(suggested)


def answered_count(session: Session, person: Person, mode: Mode) -> int:
    """How many tasks of the project this person answered (skips left out)."""
    query = select(func.count()).select_from(OutboxRecord).where(*_mine(person, mode))
    return session.scalar(query.where(OutboxRecord.is_skip.is_(False))) or 0


def last_label(session: Session, person: Person, mode: Mode) -> str:
    """The label of their newest answer, "" when there is none."""
    query = select(OutboxRecord.label).where(*_mine(person, mode))
    return session.scalars(query.order_by(OutboxRecord.answered_at.desc()).limit(1)).first() or ""


def _mine(person: Person, mode: Mode) -> tuple[ColumnElement[bool], ...]:
    return (
        OutboxRecord.person == person.id,
        OutboxRecord.project_id == person.project_id,
        OutboxRecord.mode == mode,
        OutboxRecord.withdrawn.is_(False),
    )
