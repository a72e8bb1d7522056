"""Write the queue of answers to Label Studio: each exactly once, whatever is killed when.

A flush claims rows for itself, so of several processes only one writes a row at a time. A claim ends when its
process ends or after ``CLAIM_S``. An annotation carries a key made from installation, person and task: sent
again after a crash, Label Studio refuses the second one and ``create_persons_annotation`` finds the first.
While Label Studio is away, or refuses an answer, it is tried again later and later; nothing is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlalchemy import select

from ml_backend.errors import StudioError
from sync.local.processes import is_running, start_time
from sync.review.outbox import Mode
from sync.store.database import Store, utc_now
from sync.store.review_tables import OutboxRecord
from sync.studio.protocol import PersonsAnnotation, StudioClient

__all__ = ["CLAIM_S", "FlushReport", "flush"]

_log = logging.getLogger(__name__)

CLAIM_S: Final = 240.0
"""longer than a call with all its repetitions may take, see ``PERSONS_CALL_S``"""
_STRAY_S: Final = 120.0
"""so long after it was sent, a request whose sender died may still arrive"""
_AT_ONCE: Final = 4
_AWAY_S: Final = (2.0, 60.0)
"""first and longest wait while Label Studio cannot be reached"""
_REFUSED_S: Final = (30.0, 3600.0)
"""the same for an answer that it refuses"""
_PASSING: Final = frozenset({None, 401, 408, 429, 500, 502, 503, 504})
"""statuses of refusals that say nothing about the answer"""
_UNEXPECTED: Final = 0
"""instead of a status, where the reason is a bug"""


@dataclass(frozen=True, slots=True)
class FlushReport:
    """How many answers were written (or removed, when taken back), and how many must wait."""

    written: int
    failed: int


@dataclass(frozen=True, slots=True)
class _Done:
    id: int
    revision: int
    annotation_id: int | None
    error: StudioError | None = None
    later: timedelta | None = None


def flush(
    store: Store,
    installation: str,
    client_of: Callable[[Mode], StudioClient],
    *,
    project_id: int | None = None,
    limit: int = 40,
    now: Callable[[], datetime] = utc_now,
) -> FlushReport:
    """Write what is due, at most ``limit`` answers. Raises StorageError; what Label Studio says is noted.

    ``client_of`` gives the client of the Label Studio that holds the tasks of a mode.
    """
    holder = _holder()
    rows = _claim(store, holder, project_id, limit, now())
    if not rows:
        return FlushReport(0, 0)
    away: set[str] = set()
    with ThreadPoolExecutor(min(_AT_ONCE, len(rows))) as threads:
        done = list(threads.map(partial(_write, installation, client_of, away, now()), rows))
    _note(store, holder, done, now())
    failed = [one for one in done if one.error is not None]
    for message in {str(one.error) for one in failed}:
        _log.warning("%d answers wait in the queue: %s", len(failed), message)
    return FlushReport(sum(one.error is None and one.later is None for one in done), len(failed))


def _holder() -> str:
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{start_time(os.getpid())}:{uuid.uuid4().hex[:8]}"


def _is_dead(holder: str) -> bool:
    """Whether the process that claimed a row ran on this machine and has ended."""
    host, pid, started, _ = holder.rsplit(":", 3)
    if host != socket.gethostname()[:60]:
        return False
    return not is_running(int(pid), None if started == "None" else float(started))


def _claim(
    store: Store, holder: str, project_id: int | None, limit: int, now: datetime
) -> list[OutboxRecord]:
    """Rows that Label Studio is behind of, marked as ours; with ``sent_at`` as it was before."""
    query = select(OutboxRecord).where(
        OutboxRecord.written < OutboxRecord.revision,
        # nothing waits for longer than that: it was noted before the clock was set back
        OutboxRecord.retry_at.is_(None)
        | (OutboxRecord.retry_at <= now)
        | (OutboxRecord.retry_at > now + timedelta(seconds=_REFUSED_S[1])),
    )
    if project_id is not None:
        query = query.where(OutboxRecord.project_id == project_id)
    with store.read() as session:  # most looks end here, without waiting for those who write
        if session.scalars(query.limit(1)).first() is None:
            return []
    found: list[OutboxRecord] = []
    with store.write() as session:
        for row in session.scalars(query.order_by(OutboxRecord.id).limit(4 * limit)):
            until = row.claimed_until
            is_taken = until is not None and now < until <= now + timedelta(seconds=CLAIM_S)
            if is_taken and not _is_dead(row.claimed_by):
                continue
            before = row.sent_at
            row.claimed_by, row.claimed_until = holder, now + timedelta(seconds=CLAIM_S)
            row.sent_at = now
            found.append(row)
            session.flush()
            session.expunge(row)
            row.sent_at = before
            if len(found) == limit:
                break
    return found


def _write(
    installation: str,
    client_of: Callable[[Mode], StudioClient],
    away: set[str],
    now: datetime,
    row: OutboxRecord,
) -> _Done:
    if row.mode in away:  # somebody else of this flush found out already
        return _Done(row.id, row.revision, row.annotation_id, later=timedelta(seconds=_AWAY_S[0]))
    try:
        client = client_of("questions" if row.mode == "questions" else "classes")
        if row.withdrawn:
            return _withdraw(client, row, now)
        return _Done(row.id, row.revision, _store(client, row, installation))
    except StudioError as error:
        if error.status in _PASSING:
            away.add(row.mode)
        return _Done(row.id, row.revision, row.annotation_id, error)
    except Exception as error:  # a bug met with one answer must not hold up the others
        _log.exception("the answer in row %s of the queue cannot be written", row.id)
        text = f"unexpected {type(error).__name__}; the log says more"
        return _Done(row.id, row.revision, row.annotation_id, StudioError(text, status=_UNEXPECTED))


def _store(client: StudioClient, row: OutboxRecord, installation: str) -> int:
    key = uuid.uuid5(uuid.NAMESPACE_URL, f"groundswell:{installation}:{row.mode}:{row.person}:{row.task_id}")
    wanted = PersonsAnnotation(
        task_id=row.task_id,
        result=row.result,
        key=str(key),
        completed_by=row.user,
        lead_time_s=round(row.seconds, 3),
        was_cancelled=row.is_skip,
    )
    if row.annotation_id is not None:
        try:
            client.replace_persons_annotation(row.annotation_id, wanted)
            return row.annotation_id
        except StudioError as error:
            if error.status != 404:
                raise
        _log.info("annotation %s is gone: the answer is written anew", row.annotation_id)
    return client.create_persons_annotation(wanted)


def _withdraw(client: StudioClient, row: OutboxRecord, now: datetime) -> _Done:
    """Remove what was written. An answer that may be on its way still is looked for again a little later."""
    number = row.annotation_id
    if number is None and row.sent_at is not None:
        number = _found(client, row)
        if number is None and now - row.sent_at < timedelta(seconds=_STRAY_S):
            return _Done(row.id, row.revision, None, later=timedelta(seconds=_STRAY_S))
    if number is not None:
        try:
            client.delete_annotation(number)
        except StudioError as error:
            if error.status != 404:
                raise
    return _Done(row.id, row.revision, None)


def _found(client: StudioClient, row: OutboxRecord) -> int | None:
    try:
        return client.annotation_of(row.task_id, row.user)
    except StudioError as error:
        if error.status != 404:
            raise
    return None


def _note(store: Store, holder: str, done: Sequence[_Done], now: datetime) -> None:
    with store.write() as session:
        for one in done:
            row = session.get(OutboxRecord, one.id)
            if row is None or row.claimed_by != holder:  # it took too long: somebody else has it now
                continue
            row.claimed_by, row.claimed_until = "", None
            row.annotation_id = one.annotation_id
            if one.error is None and one.later is None:
                row.written, row.error, row.tries = one.revision, "", 0
                row.retry_at = None
                continue
            if row.revision != one.revision:  # the person changed it meanwhile: that is tried at once
                continue
            row.tries += one.error is not None
            row.error = "" if one.error is None else str(one.error)[:500]
            row.retry_at = now + (one.later or _wait(one.error, row.tries))


def _wait(error: StudioError | None, tries: int) -> timedelta:
    status = None if error is None else error.status
    first, longest = _AWAY_S if status in _PASSING else _REFUSED_S
    return timedelta(seconds=min(longest, first * 2 ** min(tries - 1, 20)))
