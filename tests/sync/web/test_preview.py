"""The preview on the dashboard, on a project of the fake Label Studio."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from ml_backend.artifacts.files import write_json
from ml_backend.artifacts.paths import ProjectPaths
from sync.store.tables import ProjectRecord
from sync.web.app import create_web_app
from tests.sync.conftest import World

POST = {"X-Groundswell": "1"}
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def played(make_world: Callable[..., World]) -> World:
    world = make_world(20, early_s=0.0)
    world.label(*range(12))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return world


def _client(world: World) -> FlaskClient:
    return create_web_app(world.settings, store=world.store, studio=world.studio).test_client()


@pytest.fixture
def admin(played: World, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("sync.web.sign_in.routes.check_password", lambda url, email, password: True)
    client = _client(played)
    reply = client.post("/login", json={"email": "ada@example.com", "password": "x"}, headers=POST)
    assert reply.status_code == 200
    return client


def _made(admin: FlaskClient, project: int) -> dict[str, Any]:
    """Wait until no preview is made any more."""
    for _ in range(600):
        state: dict[str, Any] = admin.get(f"/dashboard/{project}/preview.json").get_json()
        if not state["now"]:
            return state
        time.sleep(0.1)
    raise AssertionError("the preview was never finished")


def test_a_preview_is_made_kept_and_shown(played: World, admin: FlaskClient) -> None:
    at = f"/dashboard/{played.project_id}/preview"
    with played.store.write() as session:
        session.get_one(ProjectRecord, played.project_id).title = HOSTILE
    first = admin.get(at).data.decode()
    assert "Make the preview" in first
    assert admin.post(at, json={}, headers=POST).get_json() == {"begun": True}
    assert admin.post(at, json={}, headers=POST).get_json() == {"begun": False}
    assert _made(admin, played.project_id) == {"now": False, "share": 0.0, "line": "", "error": ""}
    page = admin.get(at)
    text = page.data.decode()
    assert HOSTILE not in text
    assert not re.search(r"<script>|<style>| style=| on\w+=", text), "the policy of the page forbids it"
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    data = json.loads(found.group(1))
    assert data["title"] == HOSTILE
    assert [row["promise"] for row in data["price"]["rows"]] == [0.8, 0.85, 0.9]
    assert "Make the preview" in admin.get(f"{at}?anew=1").data.decode()
    for name in ("preview.css", "preview.js", "preview_make.js"):
        file = admin.get(f"/dashboard/preview-files/{name}")
        assert file.status_code == 200
        assert (
            admin.get(
                f"/dashboard/preview-files/{name}", headers={"If-None-Match": file.headers["ETag"]}
            ).status_code
            == 304
        )
    assert admin.get("/dashboard/preview-files/render_preview.py").status_code == 404


def test_only_admins_may_look_and_make(played: World) -> None:
    stranger = _client(played)
    at = f"/dashboard/{played.project_id}/preview"
    assert stranger.get(at).status_code == 303
    assert stranger.get(f"{at}.json", headers={"Accept": "application/json"}).status_code in (401, 403)
    assert stranger.post(at, json={}, headers=POST).status_code in (401, 403)
    assert stranger.get("/dashboard/preview-files/preview.css").status_code == 200


def test_what_is_wrong_is_said(played: World, admin: FlaskClient, make_world: Callable[..., World]) -> None:
    assert admin.get("/dashboard/99/preview").status_code == 404
    assert admin.post("/dashboard/99/preview", json={}, headers=POST).status_code == 400
    at = f"/dashboard/{played.project_id}/preview"
    assert admin.post(at, data="{}", headers=POST).status_code == 400
    pages = ProjectPaths(played.settings.data_dir, played.project_id).root / "pages"
    told = {"at": time.time() - 1000, "share": 0.4, "line": "play 3", "error": ""}
    write_json(pages / "preview-making.json", told)
    assert admin.get(f"{at}.json").get_json()["error"] == "It was interrupted."
    with played.store.write() as session:  # options that cannot be used
        session.get_one(ProjectRecord, played.project_id).options = {"policy": "no-such"}
    assert admin.post(at, json={}, headers=POST).get_json() == {"begun": True}
    assert "no-such" in _made(admin, played.project_id)["error"]
