"""Who sends a request: the person of the invite that their cookie names.

The cookie holds the invite's id, signed. The invite itself is looked up at every request, so that revoking it
takes effect at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from flask import request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from ml_backend.rates import Rates
from sync.review.outbox import CLASSES, QUESTIONS, Mode
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.review_tables import InviteRecord
from sync.web.access.errors import NotAllowed, SomebodyElse
from sync.web.access.shared import WebServices
from sync.web.access.signing import Signed
from sync.web.review.invites import read_token

__all__ = ["Door", "Person", "what_is_wrong"]

_COOKIE: Final = "groundswell_review"
_PERSON: Final = "X-Groundswell-Person"
"""whom the page was opened for: a second link in the same browser changes the cookie under an open page"""
_STATES: Final = {
    "missing": ("there is no invite link in this browser", "Open the link that was sent to you"),
    "invalid": ("this link is not valid", "Open the whole link that was sent to you, or ask for a new one"),
    "expired": ("this link has expired", "Ask whoever sent it for a new one"),
    "revoked": ("this link was withdrawn", "Ask whoever sent it"),
}


@dataclass(frozen=True, slots=True)
class Person:
    """Who answers, for which project, and what they may answer."""

    id: str
    name: str
    invite: str
    project_id: int
    scopes: tuple[str, ...]
    review_user: int | None
    label_user: int | None

    def user(self, mode: Mode) -> int | None:
        """Number of their user in the Label Studio that holds the tasks of a mode."""
        return self.review_user if mode == "questions" else self.label_user

    @property
    def page(self) -> str:
        """Whose answers a page holds: those of this person to cards of this project."""
        return _page(self.id, self.project_id)

    @property
    def modes(self) -> list[Mode]:
        """What they may answer, where their user was made."""
        wanted: tuple[Mode, ...] = (QUESTIONS, CLASSES)
        return [mode for mode in wanted if mode in self.scopes and self.user(mode) is not None]


class Door:
    """Lets people in, and counts their requests."""

    def __init__(self, web: WebServices) -> None:
        settings: Settings = web.settings
        self._web = web
        self._links = Signed(settings, "invite", timed=False)
        self._cookies = Signed(settings, "review session")
        self._https = settings.backend_url.startswith("https:")
        self._per_invite = Rates(settings.review_requests)
        self._per_address = Rates(settings.review_address_requests)

    def open_link(self, token: str, response: Response) -> str:
        """Put a cookie into the response when the link is good; returns what is wrong with it, else ""."""
        self._per_address.spend(request.remote_addr or "")
        invite_id = read_token(self._links, token)
        if invite_id is None:
            return "invalid"
        with self._web.store.write() as session:
            row, wrong = _look_up(session, invite_id, utc_now())
            if row is None or wrong:
                return wrong
            row.seen_at = utc_now()
            expires = row.expires_at
        response.set_cookie(
            _COOKIE,
            self._cookies.sign(invite_id),
            expires=expires,
            path="/review",
            secure=self._https or request.is_secure,
            httponly=True,
            samesite="Lax",  # people come from a mail: a strict cookie would not be sent then
        )
        return ""

    def person(self) -> Person:
        """Who sends this request.

        Raises NotAllowed (field ``link.…``), SomebodyElse, TooMany, StorageError.
        """
        self._per_address.spend(request.remote_addr or "")
        cookie = request.cookies.get(_COOKIE, "")
        invite_id = read_token(self._cookies, cookie)
        if invite_id is None:
            raise _refusal("invalid" if cookie else "missing")
        self._per_invite.spend(invite_id)
        with self._web.store.read() as session:
            row, wrong = _look_up(session, invite_id, utc_now())
        if row is None or wrong:
            raise _refusal(wrong)
        page = _page(row.person, row.project_id)
        if request.headers.get(_PERSON, page) != page:
            raise SomebodyElse(
                "this page is of somebody else", field="person", hint="Reload it, or open your own link again"
            )
        return Person(
            id=row.person,
            name=row.name,
            invite=row.id,
            project_id=row.project_id,
            scopes=tuple(str(scope) for scope in row.scopes),
            review_user=row.review_user,
            label_user=row.label_user,
        )


def _page(person: str, project_id: int) -> str:
    """A link of theirs for another project opens another page: the cards of one are none of the other."""
    return f"{person}-{project_id}"


def _look_up(session: Session, invite_id: str, now: datetime) -> tuple[InviteRecord | None, str]:
    """The invite, and why it does not hold; "" when it does."""
    row = session.get(InviteRecord, invite_id)
    return row, what_is_wrong(row, now)


def what_is_wrong(row: InviteRecord | None, now: datetime) -> str:
    """Why an invite does not hold: invalid, revoked or expired; "" when it does."""
    if row is None:
        return "invalid"
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at <= now else ""


def _refusal(state: str) -> NotAllowed:
    message, hint = _STATES[state]
    return NotAllowed(message, field=f"link.{state}", hint=hint)
