"""What `groundswell doctor` says about the password of the backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_backend.app import create_app
from ml_backend.settings import BackendSettings
from sync.report import doctor
from sync.settings import Settings

LOGIN = {"basic_auth_user": "groundswell", "basic_auth_pass": "a-long-one"}
CASES: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({}, {}, "bad", "has no password, so it answers nobody"),
    ({}, LOGIN, "bad", "has no password, so it answers nobody"),
    (LOGIN, {}, "bad", "asks for a password, and none is set here"),
    (LOGIN, LOGIN | {"basic_auth_pass": "a-wrong-one"}, "bad", "refuses our user name and password"),
    (LOGIN, LOGIN, "ok", "http://backend.test"),
    ({"open_backend": True}, {}, "warn", "asks nobody for a password"),
]


@pytest.mark.parametrize(("backend", "ours", "level", "detail"), CASES)
def test_a_missing_password_is_named_on_the_side_that_lacks_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: dict[str, Any],
    ours: dict[str, Any],
    level: str,
    detail: str,
) -> None:
    app = create_app(BackendSettings(data_dir=tmp_path, **backend))
    served = httpx.Client(transport=httpx.WSGITransport(app=app))
    monkeypatch.setattr(doctor.httpx, "get", served.get)
    found = doctor._backend(Settings(data_dir=tmp_path, backend_url="http://backend.test", **ours))
    assert (found.level, detail in found.detail) == (level, True), found
    if level != "ok":
        assert "GROUNDSWELL_BASIC_AUTH_PASS" in found.hint


INSIDE = "http://backend.test:9090"
ADDRESSES = [
    ("http://localhost:9090", "ok", f"{INSIDE}; browsers: http://localhost:9090"),
    (INSIDE, "ok", INSIDE),
    ("http://backend.test", "ok", "http://backend.test"),
    ("http://elsewhere.test", "warn", "http://elsewhere.test does not, from here (ConnectError)"),
    ("http://broken.test", "bad", "http://broken.test answers 502"),
]


@pytest.mark.parametrize(("outside", "level", "detail"), ADDRESSES)
def test_the_address_of_browsers_is_judged_where_this_machine_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: str, level: str, detail: str
) -> None:
    """``localhost`` of a browser is not that of a container."""
    served = httpx.Client(
        transport=httpx.WSGITransport(app=create_app(BackendSettings(data_dir=tmp_path, **LOGIN)))
    )

    def get(url: str, **options: Any) -> httpx.Response:
        if "backend.test" in url:
            return served.get(url, **options)
        if "broken.test" in url:
            return httpx.Response(502)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(doctor.httpx, "get", get)
    settings = Settings(data_dir=tmp_path, backend_url=outside, backend_internal_url=INSIDE, **LOGIN)
    found = doctor._backend(settings)
    assert (found.level, detail in found.detail) == (level, True), found


def test_a_second_port_of_this_machine_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(BackendSettings(data_dir=tmp_path, **LOGIN))
    served = httpx.Client(transport=httpx.WSGITransport(app=app))

    def get(url: str, **options: Any) -> httpx.Response:
        if ":9090" in url:
            return served.get(url, **options)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(doctor.httpx, "get", get)
    urls = {"backend_url": "http://localhost:8000", "backend_internal_url": "http://127.0.0.1:9090"}
    found = doctor._backend(Settings(data_dir=tmp_path, **urls, **LOGIN))
    assert (found.level, "http://localhost:8000 does not" in found.detail) == ("warn", True), found


def test_a_backend_without_a_password_is_named_also_where_browsers_use_localhost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(BackendSettings(data_dir=tmp_path, open_backend=True))
    monkeypatch.setattr(doctor.httpx, "get", httpx.Client(transport=httpx.WSGITransport(app=app)).get)
    urls = {"backend_url": "http://localhost:9090", "backend_internal_url": INSIDE}
    found = doctor._backend(Settings(data_dir=tmp_path, **urls))
    assert (found.level, found.detail) == ("warn", f"{INSIDE} asks nobody for a password")


def test_the_address_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(url: str, **options: Any) -> httpx.Response:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(doctor.httpx, "get", get)
    studio = "http://studio.test:8080"
    settings = Settings(data_dir=tmp_path, backend_internal_url=INSIDE, studio_url=studio)
    found = {one.name: one.detail for one in doctor.examine(settings)}
    assert found["backend"] == f"{INSIDE}: ConnectError: refused"
    assert found["label studio"] == f"{studio}: ConnectError: refused"
