"""``/login``: sign in with the e-mail and password of the main Label Studio."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, jsonify, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from ml_backend.errors import BadInput
from sync.dashboard.render import render_page
from sync.studio.users import check_password
from sync.web.access.errors import NotAllowed
from sync.web.access.posts import posted_json
from sync.web.access.shared import WebServices
from sync.web.sign_in.limits import SignInLimits
from sync.web.sign_in.sessions import Sessions, safe_path

__all__ = ["sign_in_blueprint"]

_LONGEST: Final = 300


def sign_in_blueprint(web: WebServices) -> Blueprint:
    """The form, what it posts to, and the way out."""
    pages = Blueprint("sign_in", __name__)
    sessions, limits = Sessions(web.settings), SignInLimits(web.settings)

    @pages.get("/login")
    def login() -> AnyResponse:
        wanted = safe_path(request.args.get("next", ""))
        if sessions.email():
            return redirect(wanted, code=303)
        page = render_page("sign_in.html.j2", title="Sign in", script="sign_in.js", next=wanted)
        return Response(page, mimetype="text/html")

    @pages.post("/login")
    def sign_in() -> Response:
        body = posted_json()
        email, password = _text(body, "email").strip(), _text(body, "password")
        limits.spend(email)
        if not check_password(web.settings.studio_url, email, password):
            raise NotAllowed(
                "wrong e-mail or password", field="password", hint="Use those of Label Studio itself"
            )
        if not sessions.may_enter(email):
            raise NotAllowed(
                f"{email} is not among the admins", field="email", hint="The setting admins lists them"
            )
        response = jsonify({"next": safe_path(str(body.get("next", "")))})
        sessions.begin(response, email)
        limits.remember(response, email)
        return response

    @pages.post("/logout")
    def sign_out() -> Response:
        posted_json()
        response = jsonify({"next": "/login"})
        sessions.end(response)
        return response

    return pages


def _text(body: dict[str, object], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise BadInput(f"{field} must be text of 1 to {_LONGEST} characters", field=field)
    return value
