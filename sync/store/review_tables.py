"""Tables of the review page: invites, the cards that people hold, and the queue of their answers.

What is in them is nowhere else until the queue has written it to Label Studio, so ``drop_derived`` keeps
them. A *person* is whoever was invited under one name; each has a user of their own in Label Studio.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String, UniqueConstraint, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from sync.store.tables import Base

__all__ = ["CardRecord", "InviteRecord", "OutboxRecord", "forget_deleted"]

_BOUND_VALUES = 500


class InviteRecord(Base):
    """A link by which one person may answer for one project."""

    __tablename__ = "review_invites"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """random; the link holds it, signed"""
    person: Mapped[str] = mapped_column(String(32), index=True)
    """the same for all invites of one name"""
    name: Mapped[str] = mapped_column(String(100))
    project_id: Mapped[int] = mapped_column(index=True)
    scopes: Mapped[list[Any]]
    """what may be answered: questions, classes"""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    """when the link was last opened"""
    review_user: Mapped[int | None]
    """number of the person's user in the Label Studio of the review projects"""
    label_user: Mapped[int | None]
    """the same in the Label Studio of the label projects"""


class CardRecord(Base):
    """A task that a person was given; until ``until`` nobody else gets it in their place."""

    __tablename__ = "review_cards"

    person: Mapped[str] = mapped_column(String(32), primary_key=True)
    mode: Mapped[str] = mapped_column(String(12), primary_key=True)
    """questions (a review task) or classes (a task of the label project)"""
    task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[int]
    """the label project, in both modes"""
    given_at: Mapped[datetime]
    until: Mapped[datetime]
    suggested: Mapped[list[Any]]
    """classes that the card suggested"""
    shown_at: Mapped[datetime | None]
    """when the page said that it is on the screen; None while it is only fetched ahead"""
    shared: Mapped[bool] = mapped_column(default=False)
    """it was given back, passed on or skipped: no more answers to it are taken than are wanted"""

    __table_args__ = (Index("review_cards_task", "project_id", "mode", "task_id"),)


class OutboxRecord(Base):
    """The answer of one person to one task, and how far it has come on its way to Label Studio.

    ``revision`` grows when the person takes the answer back or answers anew; Label Studio holds what
    ``written`` says, 0 while it holds nothing.
    """

    __tablename__ = "review_outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    person: Mapped[str] = mapped_column(String(32))
    mode: Mapped[str] = mapped_column(String(12))
    project_id: Mapped[int]
    task_id: Mapped[int] = mapped_column(BigInteger)
    form: Mapped[str] = mapped_column(String(8))
    """single, sheet or class"""
    label: Mapped[str] = mapped_column(String(300))
    """of the question; empty for sheets of several labels and for classes"""
    user: Mapped[int]
    """number of the person's user in the Label Studio that holds the task"""
    uuids: Mapped[list[Any]]
    """names that the page gave to this answer and to those before it, the newest last"""
    value: Mapped[dict[str, Any]]
    """``{"value": "yes"}``, ``{"wrong": [0, 3]}`` or ``{"choices": ["cat"]}``"""
    suggested: Mapped[list[Any]]
    result: Mapped[list[Any]]
    """the annotation's result as Label Studio's own form writes it"""
    is_skip: Mapped[bool]
    seconds: Mapped[float]
    answered_at: Mapped[datetime]
    right: Mapped[bool | None]
    """for a question whose answer was known and shown to the person: whether theirs was right"""
    withdrawn: Mapped[bool] = mapped_column(default=False)
    revision: Mapped[int] = mapped_column(default=1)
    written: Mapped[int] = mapped_column(default=0)
    annotation_id: Mapped[int | None] = mapped_column(BigInteger)
    sent_at: Mapped[datetime | None]
    """when it was last sent, whether or not Label Studio took it"""
    claimed_by: Mapped[str] = mapped_column(String(120), default="")
    claimed_until: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(default=0)
    """failures in a row"""
    retry_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(default="")
    """why the last try failed; empty when none did"""

    __table_args__ = (
        UniqueConstraint("person", "mode", "task_id"),
        Index("review_outbox_project", "project_id", "mode", "task_id"),
    )


def forget_deleted(session: Session, project_id: int, mode: str, annotation_ids: Collection[int]) -> None:
    """Take answers back whose annotations somebody deleted in Label Studio: their tasks are open again.

    Answers that Label Studio is behind of stay as they are: they are written anew.
    """
    ids = sorted(set(annotation_ids))
    for start in range(0, len(ids), _BOUND_VALUES):
        session.execute(
            update(OutboxRecord)
            .where(
                OutboxRecord.project_id == project_id,
                OutboxRecord.mode == mode,
                OutboxRecord.annotation_id.in_(ids[start : start + _BOUND_VALUES]),
                OutboxRecord.written == OutboxRecord.revision,
                OutboxRecord.withdrawn.is_(False),
            )
            .values(withdrawn=True, annotation_id=None)
        )
