"""The dashboard's routes on a project of the fake Label Studio: pages, state of now, what buttons do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from sync.dashboard.collect import project_record
from sync.rounds.live_progress import LiveProgress, ProgressFile
from sync.rounds.wanted_version import wanted_version
from sync.store.lease import Lease
from sync.store.tables import ProjectRecord
from sync.web.app import create_web_app
from sync.web.review.invites import create_invite
from tests.sync.conftest import World

MakeWorld = Callable[..., World]
POST = {"X-Groundswell": "1"}
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def played(make_world: MakeWorld) -> World:
    at = "https://labels.example"
    world = make_world(24, policy="verify-all", question_batch=30, retrain_after=4, studio_public_url=at)
    world.label(*range(6))
    world.worker().look(world.project_id)
    world.answer_all()
    world.worker().look(world.project_id)
    return world


@pytest.fixture
def admin(played: World, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("sync.web.sign_in.routes.check_password", lambda url, email, password: True)
    app = create_web_app(played.settings, store=played.store, studio=played.studio)
    client = app.test_client()
    reply = client.post("/login", json={"email": "ada@example.com", "password": "x"}, headers=POST)
    assert reply.status_code == 200
    return client


def post(admin: FlaskClient, world: World, action: str, **body: Any) -> Any:
    return admin.post(f"/dashboard/{world.project_id}/{action}", json=body, headers=POST)


def test_the_list_and_the_page_show_the_project(played: World, admin: FlaskClient) -> None:
    listed = admin.get("/dashboard").data.decode()
    assert f'href="/dashboard/{played.project_id}"' in listed
    assert "<b>6</b> of 24 tasks finished" in listed
    page = admin.get(f"/dashboard/{played.project_id}")
    text = page.data.decode()
    for words in ("Learning curve", "Masks by origin", "Pool per label", "Annotators", "Model versions"):
        assert words in text
    assert 'data-act="round"' in text
    assert f'href="https://labels.example/projects/{played.project_id}/data"' in text
    assert "<script>" not in text
    assert " style=" not in text, "the policy of the page forbids it"
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"


def test_a_hostile_title_stays_text_everywhere(played: World, admin: FlaskClient) -> None:
    with played.store.write() as session:
        session.get_one(ProjectRecord, played.project_id).title = HOSTILE
    for path in (
        "/dashboard",
        f"/dashboard/{played.project_id}",
        f"/dashboard/{played.project_id}/report.html",
    ):
        page = admin.get(path).data.decode()
        assert HOSTILE not in page
        assert "&lt;script&gt;alert(1)" in page


def test_the_state_of_now_is_sent_only_when_it_changed(played: World, admin: FlaskClient) -> None:
    path = f"/dashboard/{played.project_id}/live.json"
    first = admin.get(path)
    assert first.status_code == 200
    assert not first.json["live"]["busy"]
    etag = first.headers["ETag"]
    same = admin.get(path, headers={"If-None-Match": etag})
    assert (same.status_code, same.data) == (304, b"")
    settings = played.settings
    lease = Lease(played.store, f"project/{played.project_id}", "w", ttl_s=60, heartbeat_s=0)
    assert lease.acquire()
    now = time.time()
    file = ProgressFile(ProjectPaths(settings.data_dir, played.project_id).progress, "w")
    file._write(LiveProgress("w", "train", 0.5, "loss 0.3", now - 20, now - 30, now))
    busy = admin.get(path, headers={"If-None-Match": etag})
    assert busy.status_code == 200
    live = busy.json["live"]
    assert (live["busy"], live["step"], live["share"], live["line"]) == (True, "train", 0.5, "loss 0.3")
    assert live["left"] == "about 20 s left"
    assert busy.json["figures"] == first.json["figures"], "the figures need not be loaded again"
    listed = admin.get("/dashboard/live.json")
    assert listed.json[0][-1]["step"] == "train"
    lease.release()


def test_figures_follow_what_people_do(played: World, admin: FlaskClient) -> None:
    path = f"/dashboard/{played.project_id}"
    before = admin.get(f"{path}/live.json").json["figures"]
    played.label(7)
    played.worker().look(played.project_id)
    assert admin.get(f"{path}/live.json").json["figures"] != before
    assert "<b>7</b>" in admin.get(path).data.decode()


def test_buttons_tell_the_worker_what_is_wanted(played: World, admin: FlaskClient) -> None:
    def record() -> ProjectRecord:
        return project_record(played.store, played.project_id)

    assert "next look" in post(admin, played, "round").json["says"]
    assert record().round_wanted is not None
    assert "already" in post(admin, played, "round").json["says"]
    played.worker().look(played.project_id)
    assert record().round_wanted is None
    registry = ModelRegistry(played.settings.data_dir)
    first, second = (info.version for info in registry.versions(played.project_id))
    assert registry.current(played.project_id) == second

    assert post(admin, played, "serve", version=second).json["says"].endswith("serves already.")
    assert first in post(admin, played, "serve", version=first).json["says"]
    assert wanted_version(played.open().db) == first
    assert f"{first} is to serve again" in admin.get(f"/dashboard/{played.project_id}").data.decode()
    played.worker().look(played.project_id)
    current = registry.current(played.project_id)
    assert current is not None
    assert registry.info(played.project_id, current).manifest["adopted"]["version"] == first

    post(admin, played, "pause", what="asking")
    assert record().paused == "asking"
    post(admin, played, "pause", what="all")
    assert record().paused == "all"
    refused = post(admin, played, "round")
    assert refused.status_code == 400
    assert "paused" in refused.json["error"]
    assert post(admin, played, "resume").json["says"] == "The worker goes on."
    assert record().paused == ""


def test_an_invite_is_withdrawn_with_a_button(played: World, admin: FlaskClient) -> None:
    client = admin.application.test_client()
    made, other = (
        create_invite(
            played.settings, played.store, played.studio, played.studio,
            project_id=played.project_id, name=name,
        )
        for name in ("Ana", HOSTILE)
    )  # fmt: skip
    path = "/review/i/" + made.link.rpartition("/")[2]
    assert client.get(path).headers["Location"] == "/review/"
    page = admin.get(f"/dashboard/{played.project_id}").data.decode()
    assert page.count('data-act="revoke"') == 2
    assert HOSTILE not in page
    assert made.link not in page, "who may see the dashboard does not get everybody's link"
    report = admin.get(f"/dashboard/{played.project_id}/report.html").data.decode()
    assert "Ana" in report
    assert "data-act" not in report
    for wrong in ({}, {"invite": 1}, {"invite": ""}, {"invite": "zz"}, {"invite": [made.id]}):
        assert post(admin, played, "revoke", **wrong).status_code == 400
    elsewhere = admin.post("/dashboard/999/revoke", json={"invite": made.id}, headers=POST)
    assert elsewhere.status_code == 400, "only an invite of this project"
    assert client.get("/review/api/me").status_code == 200
    assert post(admin, played, "revoke", invite=made.id).json == {"says": "The link of Ana is withdrawn."}
    assert client.get("/review/api/me").status_code == 401
    page = admin.get(f"/dashboard/{played.project_id}").data.decode()
    assert page.count('data-act="revoke"') == 1
    assert f'data-invite="{other.id}"' in page


def test_wrong_requests_change_nothing(played: World, admin: FlaskClient) -> None:
    path = f"/dashboard/{played.project_id}"
    for reply in (
        admin.post(f"{path}/pause", json={"what": "asking"}),
        admin.post(f"{path}/pause", data="what=all", headers=POST),
        post(admin, played, "pause", what="everything"),
        post(admin, played, "serve", version="gs9-r1-0123456789"),
        post(admin, played, "serve", version="../x"),
        post(admin, played, "serve"),
        admin.post("/dashboard/999/round", json={}, headers=POST),
    ):
        assert reply.status_code == 400
    assert admin.get(f"{path}/round").status_code == 404
    record = project_record(played.store, played.project_id)
    assert (record.paused, record.round_wanted) == ("", None)
    assert wanted_version(played.open().db) == ""


def test_a_page_that_cannot_be_shown_says_why(played: World, admin: FlaskClient) -> None:
    page = admin.get("/dashboard/999")
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert b"project 999 does not take part" in page.data
    folder = ProjectPaths(played.settings.data_dir, played.project_id).models
    next(folder.glob("gs*/manifest.json")).write_text("{")
    page = admin.get(f"/dashboard/{played.project_id}")
    assert page.status_code == 503
    assert b"is damaged" in page.data
    for name in (
        "nothing.js",
        "figures.py",
        "..%2fapp.py",
        ".hidden.css",
        "base.html.j2",
        "a%00.css",
        "a%00.js",
    ):
        assert admin.get(f"/dashboard/files/{name}").status_code == 404


def test_clusters_are_shown_in_a_sandbox_and_kept(
    played: World, admin: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/dashboard/{played.project_id}/clusters"
    page = admin.get(path)
    assert page.status_code == 200
    assert b"Clusters of Shapes" in page.data
    assert page.headers["Content-Security-Policy"].startswith("sandbox allow-scripts; default-src 'none'")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the page is kept")

    monkeypatch.setattr("sync.web.dashboard.pages.write_cluster_page", never)
    assert admin.get(path).data == page.data
    folder = ProjectPaths(played.settings.data_dir, played.project_id).root / "pages"
    assert len(list(folder.iterdir())) == 1


def test_a_project_without_a_round_has_no_clusters_yet(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(4)
    monkeypatch.setattr("sync.web.sign_in.routes.check_password", lambda url, email, password: True)
    client = create_web_app(world.settings, store=world.store, studio=world.studio).test_client()
    client.post("/login", json={"email": "ada@example.com", "password": "x"}, headers=POST)
    assert client.get(f"/dashboard/{world.project_id}").status_code == 200
    page = client.get(f"/dashboard/{world.project_id}/clusters")
    assert page.status_code == 404
    assert b"no clustered round yet" in page.data


def test_the_report_comes_as_a_file(played: World, admin: FlaskClient) -> None:
    page = admin.get(f"/dashboard/{played.project_id}/report.html")
    assert page.headers["Content-Disposition"] == f'attachment; filename="report-{played.project_id}.html"'
    assert b"<script" not in page.data
    assert b"<button" not in page.data
