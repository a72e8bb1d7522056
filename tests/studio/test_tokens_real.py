"""Both kinds of tokens of a real Label Studio."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest

from ml_backend.errors import StudioError
from ml_backend.settings import BackendSettings
from sync.studio.client import Studio
from tests.conftest import LOGIN

pytestmark = pytest.mark.studio


def personal_token(studio: Studio, legacy: str) -> str:
    answer = httpx.post(f"{studio.url}/api/token/", headers={"Authorization": f"Token {legacy}"}, timeout=30)
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["token"])


def legacy_token(studio: Studio, email: str) -> str:
    other = studio.as_user(email, "a long password")
    assert isinstance(other, Studio)
    return str(other.sdk._client_wrapper._tokens_client._api_key)


def test_a_personal_token_works_like_a_legacy_one_and_stops_when_revoked(studio: Studio) -> None:
    email = f"{uuid.uuid4().hex[:8]}@example.com"
    legacy = legacy_token(studio, email)
    personal = personal_token(studio, legacy)
    client = Studio(studio.url, personal)
    assert client.whoami() == email == Studio(studio.url, legacy).whoami()
    assert isinstance(client.projects(), list)
    assert personal not in repr(client)

    answer = httpx.post(
        f"{studio.url}/api/token/blacklist/",
        json={"refresh": personal},
        headers={"Authorization": f"Token {legacy}"},
        timeout=30,
    )
    assert answer.status_code in (200, 204), answer.text
    with pytest.raises(StudioError, match="token") as caught:
        Studio(studio.url, personal, attempts=1).whoami()
    assert caught.value.status == 401


def test_a_token_may_change_while_a_client_lives(studio: Studio, tmp_path: Path) -> None:
    email = f"{uuid.uuid4().hex[:8]}@example.com"
    key = tmp_path / "key"
    key.write_text(legacy_token(studio, email))
    settings = BackendSettings(studio_token_file=key)
    client = Studio(studio.url, settings.current_studio_token, attempts=1)
    assert client.whoami() == email
    answer = httpx.post(
        f"{studio.url}/api/current-user/reset-token/",
        headers={"Authorization": f"Token {key.read_text()}"},
        timeout=30,
    )
    assert answer.status_code == 201, answer.text
    with pytest.raises(StudioError, match="401"):
        client.whoami()
    key.write_text(str(answer.json()["token"]))
    assert client.whoami() == email


def test_a_wrong_token_is_named_as_such(studio: Studio) -> None:
    with pytest.raises(StudioError, match="GROUNDSWELL_STUDIO_TOKEN") as caught:
        Studio(studio.url, "0" * 40).whoami()
    assert caught.value.status == 401
    with pytest.raises(StudioError, match="neither log in nor sign up"):
        studio.as_user(LOGIN.email, "not the password")


def test_a_connection_time_out_is_short_and_says_where() -> None:
    # 192.0.2.0/24 is reserved for documentation: nobody answers there
    with pytest.raises(StudioError, match=r"192\.0\.2\.1") as caught:
        Studio("http://192.0.2.1:8080", "0" * 40, attempts=1).whoami()
    assert caught.value.status is None
