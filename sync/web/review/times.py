"""How long people looked at their cards: what a page claims, cut to what can be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from ml_backend.errors import BadInput
from ml_backend.label_studio.codecs.base import finite
from sync.review.outbox import find_answer
from sync.store.review_tables import CardRecord, OutboxRecord
from sync.web.review.deck import held_card
from sync.web.review.sessions import Person
from sync.web.review.streams import parse_card

__all__ = ["MOST_ANSWERS", "claimed_seconds", "passed_since", "time_scale"]

MOST_ANSWERS: Final = 100
"""answers of one request at most"""
_LONGEST_S: Final = 3600.0
_CLOCK_S: Final = 2.0
"""so much more time than has passed may be claimed: clocks and connections are not exact"""


def passed_since(given_at: datetime, now: datetime) -> float:
    """Seconds that a card may have been looked at; the clock may have been set back since it was given."""
    return max(0.0, (now - given_at).total_seconds()) + _CLOCK_S


def claimed_seconds(value: object) -> float:
    """Seconds as a page sent them, an hour at most. Raises BadInput."""
    seconds = finite(value)
    if seconds is None or seconds < 0:
        raise BadInput("seconds is a number from 0 on", field="seconds")
    return min(seconds, _LONGEST_S)


def time_scale(session: Session, person: Person, raw: Sequence[object], now: datetime) -> float:
    """By how much the times of these answers must shrink, so that nobody claims more time than has passed.

    The time floor of a crowd rests on them. Nobody looks at a card before they have it, so the cards given
    since a moment took together no longer than has passed since then. That holds for answers that come one by
    one, and for those that waited for a connection and come together.
    """
    since: list[tuple[datetime, float, float]] = []  # card given at, seconds kept, seconds claimed now
    for item in raw:
        if not isinstance(item, Mapping):
            continue
        try:
            card = parse_card(item.get("card"), person)
            seconds = claimed_seconds(item.get("seconds"))
        except BadInput:
            continue
        held = held_card(session, person, card.mode, card.task_id)
        row = find_answer(session, person.id, card.mode, card.task_id)
        if held is not None and (row is None or row.withdrawn):  # else it is kept already
            since.append((held.given_at, 0.0, seconds))
    is_its_card = and_(
        CardRecord.person == OutboxRecord.person,
        CardRecord.mode == OutboxRecord.mode,
        CardRecord.task_id == OutboxRecord.task_id,
    )
    kept = (
        select(CardRecord.given_at, OutboxRecord.seconds)
        .join(CardRecord, is_its_card)
        .where(OutboxRecord.person == person.id, OutboxRecord.withdrawn.is_(False))
        .order_by(OutboxRecord.answered_at.desc())
        .limit(MOST_ANSWERS)
    )
    since += [(given_at, seconds, 0.0) for given_at, seconds in session.execute(kept)]
    scale, before, claimed = 1.0, 0.0, 0.0
    for given_at, old, new in sorted(since, reverse=True):
        if given_at > now:  # the clock was set back: nothing is known about this card
            continue
        before, claimed = before + old, claimed + new
        if claimed > 0:
            left = (now - given_at).total_seconds() + _CLOCK_S - before
            scale = min(scale, max(0.0, left) / claimed)
    return scale
