"""Users of Label Studio: log in as a person, and sign people up through the invite link."""

from __future__ import annotations

import re
import secrets

import httpx

from ml_backend.errors import StudioError
from ml_backend.tls import tls_context

__all__ = ["add_user", "check_password", "user_token"]

_TIMEOUT = httpx.Timeout(connect=5.0, read=60.0, write=60.0, pool=10.0)
_CSRF = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


def user_token(base_url: str, email: str, password: str, *, invite_path: str) -> str:
    """API token of the user: logs in, or signs up through ``invite_path`` when there is no such login.

    Raises StudioError when Label Studio refuses both (for example because the e-mail is taken with another
    password).
    """
    try:
        with httpx.Client(base_url=base_url, timeout=_TIMEOUT, verify=tls_context()) as http:
            if not _submit(http, "/user/login/", email, password) and not _submit(
                http, invite_path, email, password
            ):
                raise StudioError(
                    f"Label Studio let {email} neither log in nor sign up",
                    hint="The account may exist with another password, or the password is too short (8)",
                    field="email",
                    status=403,
                )
            return _token(http, email)
    except httpx.HTTPError as error:
        raise StudioError(
            f"logging in as {email} failed: {type(error).__name__}",
            hint=f"Is Label Studio running at {base_url}?",
        ) from error


def add_user(base_url: str, email: str, name: str, *, invite_path: str) -> int:
    """Sign a new user up and return their number. The password is random and kept nowhere.

    Raises StudioError when there is a user with this e-mail, or Label Studio cannot be reached.
    """
    try:
        with httpx.Client(base_url=base_url, timeout=_TIMEOUT, verify=tls_context()) as http:
            if not _submit(http, invite_path, email, secrets.token_urlsafe(24)):
                raise StudioError(
                    f"Label Studio did not sign {email} up",
                    hint="There may be a user with this e-mail already",
                    field="email",
                    status=409,
                )
            answer = http.get("/api/current-user/whoami")
            if answer.status_code != 200:
                raise StudioError(f"Label Studio does not say who {email} is", status=answer.status_code)
            number = int(answer.json()["id"])
            http.patch(
                f"/api/users/{number}/",
                json={"first_name": name[:256]},
                headers={
                    "X-CSRFToken": http.cookies.get("csrftoken") or "",
                    "Referer": f"{http.base_url}/",
                },
            )
            return number
    except httpx.HTTPError as error:
        raise StudioError(
            f"signing {email} up failed: {type(error).__name__}",
            hint=f"Is Label Studio running at {base_url}?",
        ) from error


def _submit(http: httpx.Client, path: str, email: str, password: str) -> bool:
    page = http.get(path)
    token = _CSRF.search(page.text)
    if token is None:
        return False
    form = {"csrfmiddlewaretoken": token.group(1), "email": email, "password": password}
    answer = http.post(path, data=form, headers={"Referer": f"{http.base_url}{path}"})
    return answer.status_code == 302


def _token(http: httpx.Client, email: str) -> str:
    """The legacy token where those are enabled, otherwise a new personal access token."""
    answer = http.get("/api/current-user/token")
    if answer.status_code == 200:
        token = str(answer.json().get("token", ""))
        probe = httpx.get(
            f"{http.base_url}/api/current-user/whoami",
            headers={"Authorization": f"Token {token}"},
            timeout=30.0,
            verify=tls_context(),
        )
        if probe.status_code == 200:
            return token
    made = http.post("/api/token/", headers={"X-CSRFToken": http.cookies.get("csrftoken") or ""})
    if made.status_code not in (200, 201):
        raise StudioError(
            f"Label Studio gives {email} no API token",
            hint="Enable legacy tokens, or revoke the user's personal access token: there can be only one",
            field="token",
            status=made.status_code,
        )
    return str(made.json()["token"])


def check_password(base_url: str, email: str, password: str) -> bool:
    """Whether Label Studio lets this person in; makes no account and no token.

    Raises StudioError when Label Studio cannot be asked.
    """
    timeout = httpx.Timeout(connect=5.0, read=30.0, write=30.0, pool=10.0)
    try:
        with httpx.Client(base_url=base_url, timeout=timeout, verify=tls_context()) as http:
            if not _submit(http, "/user/login/", email, password):
                return False
            found = http.get("/api/current-user/whoami")
            return found.status_code == 200 and str(found.json().get("email", "")).lower() == email.lower()
    except (httpx.HTTPError, ValueError) as error:
        raise StudioError(
            f"Label Studio cannot say who {email} is: {type(error).__name__}",
            hint=f"Is Label Studio running at {base_url}?",
        ) from error
