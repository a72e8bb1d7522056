"""Invites: signed links by which people answer without an account in Label Studio.

Whoever holds a link is the person it was made for. Each person has a user of their own in Label Studio, made
here, so that answers carry a number the crowd's model can tell apart; nobody can log in as that user. All
invites under one name are of one person.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from ml_backend.errors import BadInput
from sync.review.outbox import CLASSES, QUESTIONS, Mode
from sync.review.revoke import revoke
from sync.settings import Settings
from sync.store.database import Store, utc_now
from sync.store.review_tables import InviteRecord
from sync.store.tables import ProjectRecord
from sync.studio.protocol import StudioClient
from sync.web.access.signing import Signed

if TYPE_CHECKING:
    from ml_backend.label_studio.label_config import LabelConfig

__all__ = [
    "Invite",
    "check_classes",
    "create_invite",
    "invite_link",
    "invites",
    "read_token",
    "revoke_invite",
    "wants_classes",
]

_LONGEST_NAME: Final = 100
_LONGEST_DAYS: Final = 3650


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite, with its link; ``state`` is open, expired or revoked."""

    id: str
    person: str
    name: str
    project_id: int
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    seen_at: datetime | None
    state: str
    link: str


def create_invite(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    review_studio: StudioClient,
    *,
    project_id: int,
    name: str,
    days: float = 14.0,
    scopes: Sequence[Mode] = (QUESTIONS,),
) -> Invite:
    """Make an invite, and the person's user in Label Studio where there is none yet.

    Raises BadInput (field project, name, days or classes), StudioError when no user can be made.
    """
    name = " ".join(name.split())
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise BadInput(f"a name has 1 to {_LONGEST_NAME} characters", field="name", hint="Say --name Ana")
    if not 0 < days <= _LONGEST_DAYS:
        raise BadInput(f"{days:g} days is not between 0 and {_LONGEST_DAYS}", field="days")
    with store.read() as session:
        project = session.get(ProjectRecord, project_id)
        former = session.scalars(
            select(InviteRecord).where(InviteRecord.name == name).order_by(InviteRecord.created_at.desc())
        ).first()
    if project is None:
        raise BadInput(
            f"project {project_id} does not take part", field="project", hint="See `groundswell project list`"
        )
    if CLASSES in scopes:
        check_classes(project.label_config)
    person = secrets.token_hex(12) if former is None else former.person
    review_user = None if former is None else former.review_user
    label_user = None if former is None else former.label_user
    is_one = not settings.review_url
    if QUESTIONS in scopes and review_user is None:
        review_user = label_user if is_one and label_user else review_studio.add_person(_email(person), name)
    if CLASSES in scopes and label_user is None:
        label_user = review_user if is_one and review_user else studio.add_person(_email(person), name)
    now = utc_now()
    row = InviteRecord(
        id=secrets.token_hex(12),
        person=person,
        name=name,
        project_id=project_id,
        scopes=list(scopes),
        created_at=now,
        expires_at=now + timedelta(days=days),
        review_user=review_user,
        label_user=label_user,
    )
    with store.write() as session:
        session.add(row)
    return _invite(settings, row, now)


def wants_classes(config: LabelConfig) -> bool:
    """Whether a project is all about one choice among classes of whole pictures."""
    return [target.kind for target in config.targets] == ["classes"]


def check_classes(label_config: str) -> None:
    """Raise BadInput when a project is not all about one choice among classes of whole pictures."""
    from ml_backend.label_studio.label_config import parse_label_config

    config = parse_label_config(label_config)
    if not wants_classes(config):
        raise BadInput(
            "only a project that wants nothing but classes of pictures can be labelled on the review page",
            field="classes",
            hint="Leave --classes out: questions about what the model found work for every project",
        )


def _email(person: str) -> str:
    return f"{person}@review-page.invalid"  # no mail can go there


def invite_link(settings: Settings, invite_id: str) -> str:
    """The address that is sent to the person."""
    token = Signed(settings, "invite", timed=False).sign(invite_id)
    return f"{settings.backend_url.rstrip('/')}/review/i/{token}"


def read_token(signed: Signed, token: str) -> str | None:
    """The id of the invite in a link; None when this installation did not sign it."""
    try:
        found = signed.read(token)
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def invites(settings: Settings, store: Store, *, project_id: int | None = None) -> list[Invite]:
    """All invites, or those of a project, oldest first."""
    query = select(InviteRecord).order_by(InviteRecord.created_at, InviteRecord.id)
    if project_id is not None:
        query = query.where(InviteRecord.project_id == project_id)
    with store.read() as session:
        rows = list(session.scalars(query))
    now = utc_now()
    return [_invite(settings, row, now) for row in rows]


def revoke_invite(settings: Settings, store: Store, invite_id: str) -> Invite:
    """Refuse an invite from now on; answers given with it stay. Raises BadInput for an unknown one.

    ``invite_id`` may be shortened as long as one invite begins with it.
    """
    return _invite(settings, revoke(store, invite_id), utc_now())


def _invite(settings: Settings, row: InviteRecord, now: datetime) -> Invite:
    state = "revoked" if row.revoked_at else "expired" if row.expires_at <= now else "open"
    return Invite(
        id=row.id,
        person=row.person,
        name=row.name,
        project_id=row.project_id,
        scopes=tuple(str(scope) for scope in row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        seen_at=row.seen_at,
        state=state,
        link=invite_link(settings, row.id),
    )
