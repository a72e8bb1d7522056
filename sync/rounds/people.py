"""What Label Studio calls the people who labelled and answered, kept for pages that do not ask it.

The list of users is read when somebody new has worked, and once a day, since people change their names. Where
the token may not read it, pages show numbers; it is asked for again an hour later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select

from ml_backend.errors import StudioError
from sync.rounds.progress import Memo
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, AnswerRecord, PersonRecord
from sync.studio.protocol import StudioClient

__all__ = ["LABEL", "REVIEW", "note_people", "review_server"]

_log = logging.getLogger(__name__)
LABEL: Final = "label"
REVIEW: Final = "review"
_FRESH: Final = timedelta(days=1)
_REFUSED_S: Final = 3600.0
_BOUND_VALUES: Final = 500


def review_server(settings: Settings) -> str:
    """The server whose numbers the people of the review projects have."""
    return REVIEW if settings.review_url else LABEL


def note_people(
    db: ProjectStore, studio: StudioClient, review_studio: StudioClient, settings: Settings, memo: Memo
) -> int:
    """Keep the names of those who worked on the project; returns how many were written.

    Costs two short queries while nobody has done anything. Raises StorageError; a refusal of Label Studio is
    logged.
    """
    places: tuple[tuple[str, StudioClient, Any, Any], ...] = (
        (LABEL, studio, AnnotationRecord, AnnotationRecord.completed_by),
        (review_server(settings), review_studio, AnswerRecord, AnswerRecord.worker),
    )
    return sum(_note(db, memo, *place) for place in places)


def _note(
    db: ProjectStore, memo: Memo, server: str, studio: StudioClient, table: Any, column: ColumnElement[int]
) -> int:
    key = ("people", db.id, server, table.__tablename__)
    with db.read() as session:
        newest = session.scalar(select(func.max(table.id)).where(table.project_id == db.id))
    before = memo.get(key)
    if isinstance(before, tuple) and before[0] == newest and time.monotonic() < before[1]:
        return 0
    with db.read() as session:
        workers = session.scalars(select(column).where(table.project_id == db.id).distinct())
        there = {int(number) for number in workers if number}
    missing = there - _known(db, server, sorted(there))
    written, wait_s = 0, _FRESH.total_seconds()
    if missing:
        try:
            written = _read(db, server, studio, there)
        except StudioError as error:
            _log.info("project %s: names of people are not known: %s", db.id, error)
            wait_s = _REFUSED_S
    memo[key] = (newest, time.monotonic() + wait_s)
    return written


def _known(db: ProjectStore, server: str, numbers: Sequence[int]) -> set[int]:
    """Those of these people whose names were read within a day."""
    found: set[int] = set()
    for start in range(0, len(numbers), _BOUND_VALUES):
        query = select(PersonRecord.number).where(
            PersonRecord.server == server,
            PersonRecord.number.in_(numbers[start : start + _BOUND_VALUES]),
            PersonRecord.read_at > utc_now() - _FRESH,
        )
        with db.read() as session:
            found.update(session.scalars(query))
    return found


def _read(db: ProjectStore, server: str, studio: StudioClient, wanted: set[int]) -> int:
    listed = {row.id: row for row in studio.users()}
    now = utc_now()
    with db.write() as session:
        for number in sorted(wanted):
            user = listed.get(number)
            name, email = ("", "") if user is None else (user.name[:300], user.email[:254])
            session.merge(PersonRecord(server=server, number=number, name=name, email=email, read_at=now))
    return len(wanted)
