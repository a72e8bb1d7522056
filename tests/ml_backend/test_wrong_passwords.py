"""Guessing the password of the backend is slow, and keeps nobody else out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from ml_backend.app import create_app
from ml_backend.authorisation import WrongCredentials
from ml_backend.errors import TooMany
from ml_backend.rates import Rates
from ml_backend.settings import BackendSettings
from tests.ml_backend.served import basic

STRANGER, STUDIO = "203.0.113.9", "198.51.100.7"


@pytest.fixture(autouse=True)
def _clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine the buckets would fill up again between two guesses."""
    monkeypatch.setattr("ml_backend.authorisation.Rates", partial(Rates, now=lambda: 0.0))


def client(tmp_path: Path) -> FlaskClient:
    settings = BackendSettings(
        data_dir=tmp_path,
        basic_auth_user="ls",
        basic_auth_pass=SecretStr("right"),
        webhook_secret=SecretStr("s3cret"),
    )
    return create_app(settings).test_client()


def code(client: FlaskClient, password: str, address: str, user: str = "ls") -> int:
    place = {"environ_base": {"REMOTE_ADDR": address}}
    return client.get("/versions", headers=basic(user, password), **place).status_code


def test_after_some_wrong_passwords_an_address_waits_and_others_do_not(tmp_path: Path) -> None:
    backend = client(tmp_path)
    codes = [code(backend, f"guess {i}", STRANGER) for i in range(12)]
    assert codes[:10] == [401] * 10
    assert codes[-1] == 429
    assert code(backend, "right", STRANGER) == 429, "else guessing would go on"
    assert code(backend, "right", STUDIO) == 200
    reply = backend.get("/versions", headers=basic("ls", "x"), environ_base={"REMOTE_ADDR": STRANGER})
    assert int(reply.headers["Retry-After"]) >= 1
    assert backend.get("/health", environ_base={"REMOTE_ADDR": STRANGER}).status_code == 200
    assert backend.get("/versions", environ_base={"REMOTE_ADDR": STRANGER}).status_code == 401, "no guess"


def test_the_secret_of_webhooks_is_guessed_no_faster(tmp_path: Path) -> None:
    backend = client(tmp_path)
    codes = [
        backend.post("/webhook", json={}, headers={"X-Groundswell-Secret": f"guess {i}"}).status_code
        for i in range(12)
    ]
    assert (codes[0], codes[-1]) == (401, 429)
    assert backend.post("/webhook", json={}, headers={"X-Groundswell-Secret": "s3cret"}).status_code == 429


def test_a_header_that_cannot_be_read_is_a_wrong_one(tmp_path: Path) -> None:
    backend = client(tmp_path)
    codes = [
        backend.get("/versions", headers={"Authorization": f"Basic \xff{i}"}).status_code for i in range(12)
    ]
    assert (codes[0], codes[-1]) == (401, 429)


def test_an_old_password_that_comes_again_and_again_is_no_guess(tmp_path: Path) -> None:
    """Label Studio sends what it was told; it must get through as soon as it is told the right one."""
    backend = client(tmp_path)
    assert {code(backend, "old", STUDIO) for _ in range(50)} == {401}
    assert code(backend, "right", STUDIO) == 200


def test_somebody_with_many_addresses_waits_and_those_who_knew_the_password_do_not(tmp_path: Path) -> None:
    backend = client(tmp_path)
    assert code(backend, "right", STUDIO) == 200
    codes = [code(backend, f"guess {i}", f"203.0.{i % 100}.{i % 200}") for i in range(210)]
    assert codes[-1] == 429
    assert code(backend, "right", "192.0.2.44") == 429
    assert code(backend, "right", STUDIO) == 200


def test_all_addresses_of_a_customer_count_as_one(tmp_path: Path) -> None:
    backend = client(tmp_path)
    codes = [code(backend, f"guess {i}", f"2001:db8:1:2::{i}") for i in range(12)]
    assert codes[-1] == 429


def test_wrong_credentials_are_kept_as_digests_alone() -> None:
    tries = WrongCredentials()
    tries.wrong("a", "Basic secret-that-was-mistyped")
    assert b"secret" not in b"".join(tries._last.values())


def test_nothing_is_counted_where_the_backend_is_open(tmp_path: Path) -> None:
    backend = create_app(BackendSettings(data_dir=tmp_path, open_backend=True)).test_client()
    assert {code(backend, f"guess {i}", STRANGER) for i in range(30)} == {200}


def test_a_try_that_is_refused_is_raised_as_too_many() -> None:
    tries = WrongCredentials()
    raised = []
    for number in range(20):
        try:
            tries.wrong("a", f"{number}")
        except TooMany as error:
            raised.append(error.retry_s)
    assert len(raised) == 10
    assert all(0 < seconds <= 2 for seconds in raised)
