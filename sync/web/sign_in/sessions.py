"""Who is signed in: the e-mail in a signed cookie, good for twelve hours.

The cookie is HttpOnly and SameSite=Strict, so neither a script nor another site can use it. It is signed with
a key derived from the installation's signing key; the server keeps nothing.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from sync.settings import Settings
from sync.web.access.errors import NotAllowed
from sync.web.access.signing import Signed

__all__ = ["Sessions", "ask_for_sign_in", "safe_path"]

COOKIE: Final = "groundswell_admin"
_AGE_S: Final = 12 * 3600
HOME: Final = "/dashboard"


class Sessions:
    """Makes and reads the cookies of one installation."""

    def __init__(self, settings: Settings) -> None:
        self._signed = Signed(settings, "admin session")
        self._admins = frozenset(email.strip().lower() for email in settings.admins)
        self._https = settings.backend_url.startswith("https:")

    def may_enter(self, email: str) -> bool:
        """Whether this person is an admin; without a list everybody is who may sign in to Label Studio."""
        return not self._admins or email.lower() in self._admins

    def begin(self, response: Response, email: str) -> None:
        """Sign a person in."""
        response.set_cookie(
            COOKIE,
            self._signed.sign({"email": email}),
            max_age=_AGE_S,
            path="/",
            secure=self._https or request.is_secure,
            httponly=True,
            samesite="Strict",
        )

    def end(self, response: Response) -> None:
        """Sign out."""
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="Strict")

    def email(self) -> str:
        """E-mail of the person who sends this request, empty when nobody is signed in."""
        try:
            value = self._signed.read(request.cookies.get(COOKIE, ""), max_age_s=_AGE_S)
        except ValueError:
            return ""
        email = str(value.get("email", "")) if isinstance(value, dict) else ""
        return email if email and self.may_enter(email) else ""


def ask_for_sign_in(blueprint: Blueprint, sessions: Sessions, *, open_routes: frozenset[str]) -> None:
    """Let only admins use a blueprint, but for ``open_routes`` (names of its functions).

    A browser that opens a page is sent to the form; a page's script gets 401.
    """

    @blueprint.before_request
    def check() -> AnyResponse | None:
        name = (request.endpoint or "").rpartition(".")[2]
        if name in open_routes or sessions.email():
            return None
        is_page = request.headers.get("Sec-Fetch-Dest", "document") == "document"
        takes_html = request.accept_mimetypes.accept_html or not request.accept_mimetypes
        if is_page and request.method == "GET" and takes_html:
            wanted = request.full_path if request.query_string else request.path
            return redirect(f"/login?next={quote(wanted, safe='')}", code=303)
        raise NotAllowed("nobody is signed in", field="session", hint="Sign in again at /login")


def safe_path(wanted: str) -> str:
    """The path to go to after signing in: one of this server, else the dashboard.

    Browsers take ``//host`` and ``/\\host`` for other servers, and drop tabs and line ends.
    """
    is_plain = wanted.isprintable() and "\\" not in wanted
    return wanted if is_plain and wanted.startswith("/") and not wanted.startswith("//") else HOME
