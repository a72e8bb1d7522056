"""Webhooks and credentials."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import save_facts
from tests.ml_backend.helpers import some_facts
from tests.ml_backend.notices import noted_actions
from tests.ml_backend.served import Backend, basic, hook


def test_a_webhook_leaves_a_note(backend: Backend) -> None:
    assert hook(backend).status_code == 201
    assert backend.client.post("/webhook?project=3", data=b'{"action":"TASKS_CREATED",').status_code == 201
    assert noted_actions(backend.settings.data_dir, 3) == [
        "ANNOTATION_CREATED",
        "TASKS_CREATED",
    ]
    text = backend.client.get("/metrics").text
    assert 'groundswell_webhooks_total{action="ANNOTATION_CREATED"} 1.0' in text


def test_a_review_answer_wakes_the_project_it_is_about(backend: Backend) -> None:
    save_facts(backend.settings.data_dir, some_facts(4, role="review", label_project_id=3))
    assert hook(backend, project={"id": 4}).status_code == 201
    assert noted_actions(backend.settings.data_dir, 3) == ["ANNOTATION_CREATED"]
    assert noted_actions(backend.settings.data_dir, 4) == ["ANNOTATION_CREATED"]


def test_webhooks_of_unknown_projects_and_actions(backend: Backend) -> None:
    reply = hook(backend, project={"id": 99})
    assert reply.status_code == 404
    assert not ProjectPaths(backend.settings.data_dir, 99).root.exists()
    assert hook(backend, action="SOMETHING_NEW" * 20).status_code == 201
    assert 'action="other"' in backend.client.get("/metrics").text


def test_webhook_credentials(tmp_path: Path) -> None:
    secret = Backend(tmp_path / "a", webhook_secret=SecretStr("s3cret"))
    assert hook(secret).status_code == 401
    assert hook(secret, {"X-Groundswell-Secret": "wrong"}).status_code == 401
    assert hook(secret, basic("", "")).status_code == 401
    assert hook(secret, {"X-Groundswell-Secret": "s3cret"}).status_code == 201
    assert noted_actions(secret.settings.data_dir, 3)[0] == "ANNOTATION_CREATED"
    assert len(noted_actions(secret.settings.data_dir, 3)) == 1
    both = Backend(
        tmp_path / "b",
        webhook_secret=SecretStr("s3cret"),
        basic_auth_user="ls",
        basic_auth_pass=SecretStr("pw"),
    )
    assert hook(both).status_code == 401
    assert hook(both, {"X-Groundswell-Secret": "s3cret"}).status_code == 201
    assert hook(both, basic("ls", "pw")).status_code == 201
    assert hook(both, basic("ls", "s3cret")).status_code == 401
    only_basic = Backend(tmp_path / "c", basic_auth_user="ls", basic_auth_pass=SecretStr("pw"))
    assert hook(only_basic, {"X-Groundswell-Secret": ""}).status_code == 401


def test_basic_auth_covers_all_but_health_and_signed_crops(tmp_path: Path) -> None:
    backend = Backend(tmp_path, basic_auth_user="ls", basic_auth_pass=SecretStr("pä§s"))
    client = backend.client
    assert client.get("/health").status_code == 200
    for method, path in (
        ("get", "/metrics"),
        ("get", "/versions"),
        ("post", "/setup"),
        ("post", "/predict"),
        ("get", "/x"),
    ):
        reply = getattr(client, method)(path)
        assert reply.status_code == 401, path
        assert "Basic" in reply.headers["WWW-Authenticate"]
    assert client.get("/metrics", headers=basic("ls", "pä§s")).status_code == 200
    for user, password in (("ls", "no"), ("no", "pä§s"), ("", "")):
        assert client.get("/metrics", headers=basic(user, password)).status_code == 401
    assert (
        client.get("/metrics", headers={"Authorization": "Bearer pä§s".encode().decode("latin1")}).status_code
        == 401
    )
    assert client.get("/crops/3/t1-aa.jpg").status_code == 403
