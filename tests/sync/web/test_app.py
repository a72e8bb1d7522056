"""The app that people and Label Studio reach: who may call what, bodies, headers, a store that is away."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Blueprint
from flask.testing import FlaskClient
from pydantic import SecretStr

from ml_backend.app import create_app
from ml_backend.errors import TooMany
from ml_backend.settings import BackendSettings
from sync.settings import Settings
from sync.web.access.errors import answer_with_status
from sync.web.access.headers import protect_pages
from sync.web.access.posts import posted_json
from sync.web.app import create_web_app


def locked(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", basic_auth_user="ls", basic_auth_pass=SecretStr("pw"), studio_token="tok"
    )


def plain_blueprint(name: str) -> Blueprint:
    blueprint = Blueprint(name, __name__, url_prefix=f"/{name}")

    @blueprint.get("/hello")
    def hello() -> dict[str, str]:
        return {"hello": name}

    @blueprint.post("/post")
    def post() -> dict[str, object]:
        return {"got": posted_json(limit=100)}

    @blueprint.get("/flood")
    def flood() -> None:
        raise TooMany("slow down", retry_s=7.2)

    protect_pages(blueprint)
    return blueprint


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    app = create_app(
        BackendSettings(data_dir=tmp_path, basic_auth_user="ls", basic_auth_pass=SecretStr("pw")),
        own_access=["pages"],
    )
    answer_with_status(app)
    app.register_blueprint(plain_blueprint("pages"))
    app.register_blueprint(plain_blueprint("pagesandmore"))
    return app.test_client()


def test_only_named_blueprints_do_without_the_credentials_of_the_backend(client: FlaskClient) -> None:
    assert client.get("/pages/hello").json == {"hello": "pages"}
    assert client.get("/pagesandmore/hello").status_code == 401
    assert client.get("/metrics").status_code == 401
    assert client.get("/pages/nothing").status_code == 401  # no route, so nobody's
    login = {"Authorization": "Basic " + base64.b64encode(b"ls:pw").decode()}
    assert client.get("/pagesandmore/hello", headers=login).status_code == 200


def test_the_app_with_pages_keeps_the_routes_of_the_model_locked(tmp_path: Path) -> None:
    client = create_web_app(locked(tmp_path)).test_client()
    assert client.get("/health").status_code == 200
    for path in ("/predict", "/setup", "/webhook"):
        assert client.post(path, json={}).status_code == 401
    assert client.get("/versions").status_code == 401
    reply = client.get("/review/nothing/here")
    assert reply.status_code == 404
    assert reply.json["error"] == "there is no such page"
    assert "WWW-Authenticate" not in reply.headers


def test_posts_must_be_small_json_of_our_own_pages(client: FlaskClient) -> None:
    ours = {"X-Groundswell": "1"}
    good = client.post("/pages/post", json={"a": 1}, headers=ours)
    assert good.json == {"got": {"a": 1}}
    assert client.post("/pages/post", json={"a": 1}).json["field"] == "X-Groundswell"
    as_form = client.post("/pages/post", data={"a": "1"}, headers=ours)
    assert (as_form.status_code, as_form.json["field"]) == (400, "Content-Type")
    as_text = client.post("/pages/post", data='{"a": 1}', content_type="text/plain", headers=ours)
    assert as_text.status_code == 400
    for body in (b"", b"[1]", b"{", b"\xff\xfe", b'"x"', b"[" * 90):
        reply = client.post("/pages/post", data=body, content_type="application/json", headers=ours)
        assert reply.status_code == 400, body
    assert client.post("/pages/post", json={"a": "x" * 100}, headers=ours).status_code == 413


def test_a_flood_is_told_when_to_come_back(client: FlaskClient) -> None:
    reply = client.get("/pages/flood")
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "7")
    assert reply.json["error"] == "slow down"


def test_pages_run_nothing_from_elsewhere_and_are_not_framed(client: FlaskClient) -> None:
    headers = client.get("/pages/hello").headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Content-Security-Policy" not in client.get("/health").headers


def test_the_entry_point_serves_clicks_and_crops_while_its_database_is_away(tmp_path: Path) -> None:
    code = (
        "import sys; from sync.web.wsgi import app; c = app.test_client();"
        "assert c.get('/health').status_code == 200; assert c.get('/metrics').status_code == 200;"
        "print(sorted({'torch', 'pyarrow', 'sklearn', 'label_studio_sdk', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "GROUNDSWELL_DATA_DIR": str(tmp_path),
            "GROUNDSWELL_DATABASE_URL": "sqlite:////nowhere/at/all.db",
            "GROUNDSWELL_OPEN_BACKEND": "true",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace("'", '"')) == []
