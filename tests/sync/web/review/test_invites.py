"""Invites: who may be invited, what a link opens, when it holds no longer; the command line."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from ml_backend.errors import BadInput, StudioError
from sync import installation
from sync.cli import build_app
from sync.review.outbox import CLASSES, QUESTIONS
from sync.rounds.registration import register_project, unregister_project
from sync.store.database import utc_now
from sync.store.review_tables import InviteRecord
from sync.web.review.invites import create_invite, invites, revoke_invite
from tests.sync.web.review.place import POST, PersonAtBrowser, Place

Asking = Callable[..., Place]


def test_a_link_opens_the_page_of_its_person_and_leaves_the_address(asking: Asking) -> None:
    place = asking()
    ana = place.person("Ana")
    assert ana.arrived.headers["Location"] == "/review/"
    cookie = ana.arrived.headers["Set-Cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Path=/review", "Expires="))
    assert ana.link.rpartition("/")[2] not in cookie
    assert ana.get("me").json["name"] == "Ana"
    (row,) = invites(place.settings, place.world.store)
    assert (row.state, row.seen_at is not None, row.link) == ("open", True, ana.invite.link)


def test_invites_of_one_name_are_of_one_person(asking: Asking) -> None:
    place = asking()
    first, second, other = place.person("Ana"), place.person("  Ana "), place.person("Ben")
    ids = [person.get("me").json["id"] for person in (first, second, other)]
    assert ids[0] == ids[1] != ids[2]
    card = first.cards()[0]["id"]
    first.answer(card, value="yes")
    assert card not in {c["id"] for c in second.cards()}
    assert sorted(place.studio.user_names().values()) == ["", "Ana", "Ben"]


def test_another_link_of_the_same_person_takes_no_page_over(asking: Asking) -> None:
    """The page would drop answers that the server refuses: those of a project wait for its own link."""
    place = asking()
    ana = place.person("Ana")
    mine = ana.get("me").json["id"]
    card = ana.cards()[0]["id"]
    studio, store = place.studio, place.world.store
    other = studio.create_project("More", studio.project(place.world.project_id).label_config).id
    register_project(place.settings, store, studio, other)
    second = create_invite(place.settings, store, studio, studio, project_id=other, name="Ana")
    assert second.person == ana.invite.person
    ana.client.get("/review/i/" + second.link.rpartition("/")[2])
    assert ana.get("me").json["id"] != mine
    body = {"answers": [{"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": 1.0}]}
    headers = {**POST, "X-Groundswell-Person": mine}
    reply = ana.client.post("/review/api/answers", json=body, headers=headers)
    assert (reply.status_code, reply.json["field"]) == (409, "person")
    ana.client.get(ana.link)
    reply = ana.client.post("/review/api/answers", json=body, headers=headers)
    assert reply.json["stored"] == [body["answers"][0]["uuid"]]


def test_answers_to_a_project_that_was_taken_out_wait_until_it_is_back(asking: Asking) -> None:
    """The page keeps what was refused because of the link, and drops what was refused for itself."""
    place = asking()
    ana = place.person()
    card = ana.cards()[0]["id"]
    unregister_project(place.world.store, place.world.project_id)
    body = {"answers": [{"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": 1.0}]}
    reply = ana.post("answers", body)
    assert (reply.status_code, reply.json["field"]) == (401, "link.project")
    assert ana.get("me").status_code == 401
    register_project(place.settings, place.world.store, place.studio, place.world.project_id)
    assert ana.post("answers", body).json["stored"]


def test_the_cookie_goes_over_https_only_where_the_link_does(asking: Asking) -> None:
    place = asking()
    assert "Secure" not in place.person().arrived.headers["Set-Cookie"]
    place.world.settings = place.settings.model_copy(update={"backend_url": "https://review.example.com"})
    assert "Secure" in Place(place.world).person("Ben").arrived.headers["Set-Cookie"]


def test_without_a_link_with_a_forged_an_expired_or_a_withdrawn_one_nothing_is_told(asking: Asking) -> None:
    place = asking()
    stranger = place.app.test_client()
    assert stranger.get("/review/api/me").json["field"] == "link.missing"
    ana = place.person()
    token = ana.link.rpartition("/")[2]
    changed = token[:-9] + ("A" if token[-9] != "A" else "B") + token[-8:]
    for forged in (changed, "x" + token, "x", token.split(".")[0]):
        reply = stranger.get(f"/review/i/{forged}")
        assert reply.headers["Location"] == "/review/?link=invalid"
        assert "Set-Cookie" not in reply.headers
    # neither is the token a cookie, nor the cookie a token
    stranger.set_cookie("groundswell_review", token, path="/review")
    assert stranger.get("/review/api/me").json["field"] == "link.invalid"
    cookie = ana.client.get_cookie("groundswell_review", path="/review")
    assert cookie is not None
    assert stranger.get(f"/review/i/{cookie.value}").headers["Location"] == "/review/?link=invalid"

    revoke_invite(place.settings, place.world.store, ana.invite.id[:8])
    reply = ana.get("me")
    assert (reply.status_code, reply.json["field"]) == (401, "link.revoked")
    assert ana.post("answers", {"answers": []}).status_code == 401
    assert stranger.get(ana.link).headers["Location"] == "/review/?link=revoked"

    ben = place.person("Ben")
    with place.world.store.write() as session:
        session.get_one(InviteRecord, ben.invite.id).expires_at = utc_now() - timedelta(seconds=1)
    assert ben.get("cards", stream=f"{place.world.project_id}:questions").json["field"] == "link.expired"
    assert stranger.get(ben.link).headers["Location"] == "/review/?link=expired"
    assert [row.state for row in invites(place.settings, place.world.store)] == ["revoked", "expired"]


def test_a_changed_signing_key_ends_all_links(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    other = Place(place.world)
    assert PersonAtBrowser(other.app, ana.invite).arrived.headers["Location"] == "/review/"
    place.world.settings = place.world.settings.model_copy(update={"signing_key": _secret("n" * 40)})
    changed = Place(place.world)
    assert PersonAtBrowser(changed.app, ana.invite).arrived.headers["Location"] == "/review/?link=invalid"


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)


def test_who_cannot_be_invited(asking: Asking) -> None:
    place = asking()
    for name in ("", "  ", "x" * 101, "a\x00b"):
        with pytest.raises(BadInput) as error:
            place.invite(name)
        assert error.value.field == "name"
    for days in (0.0, -1.0, 99_999.0, float("nan")):
        with pytest.raises(BadInput) as error:
            place.invite(days=days)
        assert error.value.field == "days"
    with pytest.raises(BadInput) as error:
        place.invite(scopes=(QUESTIONS, CLASSES))
    assert error.value.field == "classes"
    place.world.project_id = 99
    with pytest.raises(BadInput) as error:
        place.invite()
    assert error.value.field == "project"
    assert invites(place.settings, place.world.store) == []


def test_no_invite_is_made_when_label_studio_makes_no_user(asking: Asking) -> None:
    place = asking()

    def away(call: str) -> None:
        raise StudioError("no connection")

    place.studio.before_call = away
    with pytest.raises(StudioError):
        place.invite()
    assert invites(place.settings, place.world.store) == []


def test_the_command_makes_lists_and_withdraws_links(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    place = asking()
    number = str(place.world.project_id)
    found = installation.Installation(place.settings, place.world.store, place.studio, None)
    monkeypatch.setattr(installation, "open_installation", lambda data_dir, **more: found)
    monkeypatch.setattr(
        installation, "open_store", lambda data_dir, **more: (place.settings, place.world.store)
    )
    runner, app = CliRunner(), build_app()

    def run(*words: str) -> str:
        done = runner.invoke(app, ["invite", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "nobody is invited yet" in run("list")
    link = run("create", "--project", number, "--name", "Ana").strip()
    assert link.startswith(place.settings.backend_url)
    made = json.loads(run("create", "--project", number, "--name", "Ben", "--days", "2", "--json"))
    assert (made["name"], made["scopes"], made["state"]) == ("Ben", ["questions"], "open")
    assert "Ben" in run("list", "--project", number)
    assert "withdrawn" in run("revoke", made["id"][:8])
    states = {row["name"]: row["state"] for row in json.loads(run("list", "--json"))}
    assert states == {"Ana": "open", "Ben": "revoked"}
    refused = runner.invoke(app, ["invite", "revoke", "nothing"])
    assert isinstance(refused.exception, BadInput)
