"""A person's own figures: answers today, speed, how often they were right; for classes how many of each."""

from __future__ import annotations

import statistics
from collections import Counter
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sync.review.outbox import CLASSES, Mode, waiting
from sync.settings import Settings
from sync.store.review_tables import OutboxRecord
from sync.web.review.accuracy import model_accuracy, own_accuracy
from sync.web.review.sessions import Person

__all__ = ["figures"]

_RECENT: Final = 50


def figures(
    session: Session, person: Person, mode: Mode, settings: Settings, now: datetime, *, version: str = ""
) -> dict[str, Any]:
    """The figures of one person in one stream; ``version`` of the model suggests the classes."""
    mine = [
        OutboxRecord.person == person.id,
        OutboxRecord.project_id == person.project_id,
        OutboxRecord.mode == mode,
        OutboxRecord.withdrawn.is_(False),
        OutboxRecord.is_skip.is_(False),
    ]
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today = session.scalar(
        select(func.count()).select_from(OutboxRecord).where(*mine, OutboxRecord.answered_at >= midnight)
    )
    recent = list(
        session.scalars(
            select(OutboxRecord.seconds).where(*mine).order_by(OutboxRecord.answered_at.desc()).limit(_RECENT)
        )
    )
    median = round(statistics.median(recent), 2) if recent else None
    found: dict[str, Any] = {
        "answered_today": today or 0,
        "median_s": median if settings.review_show_speed else None,
        "per_minute": round(60.0 / median, 1) if median and settings.review_show_speed else None,
        "gold": _gold(session, mine) if settings.review_show_gold else None,
        "queue": waiting(session, person=person.id).count,
    }
    if mode != CLASSES:
        return found
    accuracy = {
        "model": model_accuracy(session, person.project_id, version),
        "own": own_accuracy(session, person) if settings.review_show_gold else None,
    }
    return found | _classes(session, mine) | {"accuracy": accuracy}


def _gold(session: Session, mine: list[Any]) -> dict[str, int]:
    told = list(session.scalars(select(OutboxRecord.right).where(*mine, OutboxRecord.right.is_not(None))))
    return {"right": sum(bool(one) for one in told), "asked": len(told)}


def _classes(session: Session, mine: list[Any]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    same = of = 0
    for value, suggested in session.execute(select(OutboxRecord.value, OutboxRecord.suggested).where(*mine)):
        chosen = [str(one) for one in value.get("choices", [])]
        counts.update(chosen)
        if suggested:
            of += 1
            same += set(chosen) == {str(one) for one in suggested}
    return {
        "classes": [{"value": name, "count": count} for name, count in counts.most_common()],
        "agreement": {"same": same, "of": of} if of else None,
    }
