"""Invites to the review page: for whom, until when, and how much they were used."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from sync.dashboard.figures import InviteRow
from sync.store.project_store import ProjectStore
from sync.store.review_tables import InviteRecord, OutboxRecord

__all__ = ["invite_rows"]

_WORDS = {"questions": "answer questions", "classes": "name classes"}


def invite_rows(db: ProjectStore, now: datetime) -> tuple[InviteRow, ...]:
    """All invites of a project, those that hold first, then the newest first."""
    query = select(InviteRecord).where(InviteRecord.project_id == db.id)
    count = (
        select(OutboxRecord.person, func.count())
        .where(
            OutboxRecord.project_id == db.id,
            OutboxRecord.withdrawn.is_(False),
            OutboxRecord.is_skip.is_(False),
        )
        .group_by(OutboxRecord.person)
    )
    with db.read() as session:
        rows = list(session.scalars(query.order_by(InviteRecord.created_at.desc(), InviteRecord.id)))
        answers = {str(person): int(n) for person, n in session.execute(count)}
    found = [
        InviteRow(
            id=row.id,
            name=row.name,
            may=" and ".join(_WORDS.get(str(scope), str(scope)) for scope in row.scopes),
            state="withdrawn" if row.revoked_at else "expired" if row.expires_at <= now else "open",
            expires_at=row.expires_at.timestamp(),
            seen_at=0.0 if row.seen_at is None else row.seen_at.timestamp(),
            answers=answers.get(row.person, 0),
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda row: row.state != "open"))
