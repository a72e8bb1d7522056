"""A backend without a password answers nobody, and placeholders are no secrets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from ml_backend.app import create_app
from ml_backend.settings import BackendSettings
from sync.settings import Settings
from sync.web.app import create_web_app
from tests.ml_backend.served import Backend, basic, hook

OPEN_PAGES = {
    # forms and files of ours, which hold nothing of anybody
    "/login",
    "/dashboard/files/<name>",
    "/dashboard/preview-files/<name>",
    "/review/static/<path:name>",
    # says how to get a link to somebody without one; the token of a link is what opens it
    "/review/",
    "/review/<path:anything>",
    "/review/i/<token>",
}


@pytest.mark.parametrize("with_pages", [False, True])
def test_every_route_but_health_is_closed_by_default(tmp_path: Path, with_pages: bool) -> None:
    """All routes of the app, so that a new one is closed too; a page may send to its own login instead."""
    app = (
        create_web_app(Settings(data_dir=tmp_path))
        if with_pages
        else create_app(BackendSettings(data_dir=tmp_path))
    )
    client = app.test_client()
    opened = set()
    for rule in app.url_map.iter_rules():
        path = rule.build({name: 3 for name in rule.arguments}, append_unknown=False)
        assert path is not None, rule
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            reply = client.open(path[1], method=method)
            to_login = reply.status_code in (302, 303) and "/login" in reply.headers["Location"]
            if reply.status_code not in (400, 401, 403) and not to_login:
                opened.add((method, rule.rule, reply.status_code))
    assert {rule for _, rule, _ in opened} == {"/health", "/"} | (OPEN_PAGES if with_pages else set())


def test_the_answer_and_the_log_say_what_to_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        closed = Backend(tmp_path, open_backend=False)
    assert "GROUNDSWELL_BASIC_AUTH_PASS" in caplog.text
    for reply in (closed.post(), hook(closed), closed.client.get("/metrics", headers=basic("", ""))):
        assert reply.status_code == 401
        assert "GROUNDSWELL_BASIC_AUTH_PASS" in reply.json["hint"]
    assert closed.client.get("/health").status_code == 200


def test_a_webhook_secret_alone_opens_the_webhook_alone(tmp_path: Path) -> None:
    backend = Backend(tmp_path, open_backend=False, webhook_secret=SecretStr("s3cret"))
    assert hook(backend, {"X-Groundswell-Secret": "s3cret"}).status_code == 201
    assert hook(backend).status_code == 401
    assert backend.client.get("/versions", headers={"X-Groundswell-Secret": "s3cret"}).status_code == 401


def test_a_password_counts_in_an_open_backend_too(tmp_path: Path) -> None:
    backend = Backend(tmp_path, basic_auth_user="ls", basic_auth_pass=SecretStr("pw"))
    assert backend.settings.open_backend
    assert backend.client.get("/versions").status_code == 401
    assert hook(backend).status_code == 401
    assert backend.client.get("/versions", headers=basic("ls", "pw")).status_code == 200


@pytest.mark.parametrize("name", ["studio_token", "webhook_secret", "signing_key", "basic_auth_pass"])
@pytest.mark.parametrize("value", ["0" * 40, "changeme", "Change-Me", "xxxxxxxx"])
def test_placeholders_are_no_secrets(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match="placeholder") as caught:
        BackendSettings(**{name: value})  # type: ignore[arg-type]
    assert caught.value.error_count() == 1
