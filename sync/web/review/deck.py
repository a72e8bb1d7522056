"""The deck of one person: which cards they hold, and which they get next.

A card that was given is kept for its person for ``review_hold_s`` seconds. It may be answered after that as
well: nobody's work is thrown away.

A page fetches cards ahead and says which one is on its screen. It gives back what nobody looked at when it is
hidden or closed, and cards that are only held ahead are passed on to a person for whom nothing else is left.
Both hold such a *shared* card for a moment, so no more answers to it are taken than are wanted. A card that
somebody skipped is shared as well: they may take the skip back while another has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from sync.review.outbox import Mode
from sync.store.review_tables import CardRecord, OutboxRecord
from sync.web.access.errors import NotYet
from sync.web.review.sessions import Person

__all__ = [
    "NextCards",
    "answered_count",
    "being_read",
    "give",
    "give_back",
    "half_of",
    "held_card",
    "held_cards",
    "held_tasks",
    "is_over",
    "last_label",
    "note_shown",
    "take_over",
]


@dataclass(frozen=True, slots=True)
class NextCards:
    """Cards for a page; ``left``: how many there are for its person, ``lost``: tasks that it has and that are
    no longer theirs."""

    cards: list[dict[str, Any]]
    left: int
    lost: frozenset[int]


def being_read(project_id: int) -> NotYet:
    """Why an answer cannot be taken while a rebuild reads the project again; the page sends it again."""
    return NotYet(
        f"project {project_id} is being read from Label Studio",
        hint="Your answers are kept until that is done",
    )


def held_card(session: Session, person: Person, mode: Mode, task_id: int) -> CardRecord | None:
    """The card as it was given to this person, also when it was kept for them no longer; None if never."""
    return session.get(CardRecord, (person.id, mode, task_id))


def held_cards(session: Session, person: Person, mode: Mode, tasks: Collection[int]) -> dict[int, CardRecord]:
    """``held_card`` of many tasks, in one statement; tasks that were never given to the person are left out.
    While the result is kept, the session looks up none of them again.
    """
    query = select(CardRecord).where(
        CardRecord.person == person.id, CardRecord.mode == mode, CardRecord.task_id.in_(tasks)
    )
    return {card.task_id: card for card in session.scalars(query)}


def is_over(session: Session, person: Person, mode: Mode, task_id: int, now: datetime) -> bool:
    """Whether a card is kept for the person no longer; it is while a rebuild reads its question again."""
    card = held_card(session, person, mode, task_id)
    return card is None or card.until <= now


def held_tasks(session: Session, person: Person, mode: Mode, now: datetime) -> set[int]:
    """Tasks that are kept for this person and that they have not answered."""
    held = select(CardRecord.task_id).where(
        CardRecord.person == person.id, CardRecord.mode == mode, CardRecord.until > now
    )
    done = select(OutboxRecord.task_id).where(
        OutboxRecord.person == person.id, OutboxRecord.mode == mode, OutboxRecord.withdrawn.is_(False)
    )
    return set(session.scalars(held)) - set(session.scalars(done))


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
    shared = _shared(session, person, mode, [task_id for task_id, _ in tasks])
    held = held_cards(session, person, mode, [task_id for task_id, _ in tasks])
    for task_id, suggested in tasks:
        card = held.get(task_id)
        if card is None:
            card = CardRecord(person=person.id, mode=mode, task_id=task_id, given_at=now, shared=False)
            session.add(card)
        elif card.until <= now:
            card.given_at, card.shown_at = now, None
        card.project_id, card.until = person.project_id, now + timedelta(seconds=hold_s)
        card.suggested = list(suggested)
        card.shared = card.shared or task_id in shared


def _shared(session: Session, person: Person, mode: Mode, tasks: Sequence[int]) -> set[int]:
    """Those of the tasks that another person gave back, or that were passed on."""
    query = select(CardRecord.task_id).where(
        CardRecord.project_id == person.project_id,
        CardRecord.mode == mode,
        CardRecord.task_id.in_(tasks),
        CardRecord.shared.is_(True),
        CardRecord.person != person.id,
    )
    return set(session.scalars(query))


def note_shown(session: Session, person: Person, mode: Mode, task_id: int, now: datetime) -> bool:
    """Note that a card is on the screen, in a write session; False when it is somebody else's by now."""
    card = held_card(session, person, mode, task_id)
    if card is None:
        return True  # a page may say what it likes: this is no card of theirs
    if card.until > now:
        card.shown_at = card.shown_at or now
    return card.until > now or not card.shared


def give_back(session: Session, person: Person, mode: Mode, tasks: Sequence[int], now: datetime) -> int:
    """Keep these cards for their person no longer, in a write session; returns how many were kept so far."""
    count = 0
    for task_id in tasks:
        card = held_card(session, person, mode, task_id)
        if card is not None and card.project_id == person.project_id and card.until > now:
            card.until, card.shown_at, card.shared = now, None, True
            count += 1
    return count


def take_over(session: Session, mode: Mode, task_id: int, holders: Sequence[str], now: datetime) -> None:
    """Take a card from people who only hold it ahead, in a write session; ``give`` it to another then."""
    for holder in holders:
        card = session.get_one(CardRecord, (holder, mode, task_id))
        card.until, card.shared = now, True
    session.flush()


def half_of(count: int) -> int:
    """How many of the cards that others hold ahead are taken at once: both go on with as many."""
    return (count + 1) // 2


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
