"""Somebody with a link who means harm: nothing but their own answers to their own cards gets through."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from ml_backend.errors import StorageError, TooMany
from ml_backend.rates import Rates
from tests.sync.web.review.place import POST, PersonAtBrowser, Place

Asking = Callable[..., Place]
TRICKS = (
    "../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/secrets.json", "....//....//x", "a%00b",
    "index.html/../../app.py", "/etc/passwd",
)  # fmt: skip


def one(card: Any, **what: Any) -> dict[str, Any]:
    return {"answers": [{"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": 1.0, **what}]}


def test_cards_of_others_and_of_nobody_are_refused(asking: Asking) -> None:
    place = asking()
    ana, eve = place.person("Ana"), place.person("Eve")
    mine = ana.cards()[0]["id"]
    project = place.world.project_id
    label_task = place.world.tasks[10]
    for card in (
        mine, f"{project}:h:{mine.split(':')[2]}", f"{project}:c:{label_task}", f"{project}:s:{label_task}",
        f"{project + 1}:s:1", f"{project}:s:0", f"{project}:s:-1", f"{project}:s:1e3", f"1:s:{'9' * 40}",
        "", ":", "1:s", None, 7, ["x"], {"a": 1}, f"{project}:s:١", mine + "\n",
    ):  # fmt: skip
        reply = eve.post("answers", one(card))
        assert reply.status_code == 200
        assert reply.json["stored"] == [], card
        assert len(reply.json["refused"]) == 1
        assert eve.post("undo", {"card": card}).status_code in (400, 409)
    assert place.flush().written == 0
    assert ana.answer(mine, value="yes")["stored"]
    assert eve.post("undo", {"card": mine}).status_code == 409  # nobody takes back another's answer


@pytest.mark.parametrize(
    "change",
    [
        {"value": "<script>"}, {"value": None}, {"value": 1}, {"value": ["yes"]}, {"value": "YES"},
        {"seconds": "1"}, {"seconds": -1}, {"seconds": None}, {"seconds": True}, {"seconds": [1]},
        {"uuid": "not one"}, {"uuid": 5}, {"uuid": None}, {"uuid": "{" + str(uuid.uuid4()) + "}"},
        {"uuid": "' OR 1=1 --"},
    ],
)  # fmt: skip
def test_wrong_values_are_refused_and_change_nothing(asking: Asking, change: dict[str, Any]) -> None:
    place = asking()
    ana = place.person()
    reply = ana.post("answers", one(ana.cards()[0]["id"], **change))
    assert (reply.status_code, reply.json["stored"], len(reply.json["refused"])) == (200, [], 1)
    assert place.flush().written == 0


def test_bodies_that_are_no_answers(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    card = ana.cards()[0]["id"]
    for body in ({}, {"answers": None}, {"answers": []}, {"answers": {}}, {"answers": "x"}):
        assert ana.post("answers", body).status_code == 400
    assert ana.post("answers", {"answers": [one(card)["answers"][0]] * 101}).status_code == 400
    big = one(card, more="x" * 300_000)
    assert ana.post("answers", big).status_code == 413
    for text in ("", "[]", "{", "null", '{"answers": [' + "[" * 5000):
        sent = ana.client.post(
            "/review/api/answers", data=text, content_type="application/json", headers=POST
        )
        assert sent.status_code == 400
    infinite = json.dumps(one(card)).replace("1.0", "Infinity")
    sent = ana.client.post(
        "/review/api/answers", data=infinite, content_type="application/json", headers=POST
    )
    assert len(sent.json["refused"]) == 1
    # a form of another site sends the cookie, but neither header nor content type
    form = ana.client.post("/review/api/answers", data={"answers": "x"})
    assert form.status_code == 400
    text = ana.client.post("/review/api/answers", data=json.dumps(one(card)), content_type="text/plain")
    assert text.status_code == 400
    assert place.flush().written == 0


def test_names_and_labels_are_data_never_markup(asking: Asking) -> None:
    place = asking()
    name = '<img src=x onerror="alert(1)">'
    eve = place.person(name)
    reply = eve.get("me")
    assert reply.mimetype == "application/json"
    assert reply.json["name"] == name
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    page = eve.client.get("/review/")
    assert name not in page.text
    assert "<script>" not in page.text


def test_paths_lead_nowhere_else(asking: Asking) -> None:
    place = asking(page={"open_backend": True})
    ana = place.person()
    for trick in TRICKS:
        for path in (
            f"/review/static/{trick}", f"/review/pictures/context/1/{trick}.jpg?sig=x&exp=99999999999",
            f"/review/{trick}", f"/review/i/{trick}", f"/review/pictures/whole/1/{trick}.jpg",
        ):  # fmt: skip
            reply = ana.client.get(path)
            assert reply.status_code in (303, 308, 400, 401, 403, 404), path
            assert "root:" not in reply.text
            assert "secret" not in reply.text
    # the crowd's cookie opens nothing of the backend; this backend asks for no password, so ask one that does
    place.world.settings = place.settings.model_copy(
        update={"open_backend": False, "basic_auth_user": "ls", "basic_auth_pass": place.settings.signing_key}
    )
    locked = PersonAtBrowser(Place(place.world).app, ana.invite)
    assert locked.get("me").status_code == 200
    for path in ("/metrics", "/versions?project=1"):
        assert locked.client.get(path).status_code == 401
    for path in ("/predict", "/setup", "/webhook"):
        assert locked.client.post(path, json={}, headers=POST).status_code == 401


def test_a_flood_is_slowed_down_per_invite_and_per_address(asking: Asking) -> None:
    place = asking(page={"review_requests": 30, "review_address_requests": 60})
    ana, ben = place.person("Ana"), place.person("Ben")
    codes = [ana.get("stats").status_code for _ in range(14)]
    assert codes[0] == 200
    assert codes[-1] == 429
    slowed = ana.get("stats")
    assert int(slowed.headers["Retry-After"]) >= 1
    assert ben.get("stats").status_code == 200  # others are not held up
    stranger = place.app.test_client()
    tries = [stranger.get(f"/review/i/guess{i}").status_code for i in range(30)]
    assert tries[-1] == 429
    assert place.flush().written == 0


def test_a_bucket_fills_up_again() -> None:
    moment = [0.0]
    rates = Rates(60, now=lambda: moment[0])
    for _ in range(20):
        rates.spend("ana")
    with pytest.raises(TooMany) as refused:
        rates.spend("ana")
    assert refused.value.retry_s == pytest.approx(1.0)
    rates.spend("ben")
    moment[0] = 1.01
    rates.spend("ana")
    for number in range(20_000):
        rates.spend(str(number))
    assert len(rates._left) <= 10_000


def test_nobody_can_hold_everything(asking: Asking) -> None:
    place = asking()
    eve = place.person("Eve")
    seen: list[str] = []
    for _ in range(6):
        seen += [card["id"] for card in eve.cards(n=30, have=seen)]
    assert len(set(seen)) == len(seen) <= 60
    have = ",".join([*seen, "x", "9:s:9", "1:s:" + "9" * 30])
    assert eve.get("cards", stream=eve.stream, have=have).status_code == 200


def test_errors_in_the_log_do_not_hold_the_token(
    asking: Asking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = asking()
    ana = place.person()
    token = ana.link.rpartition("/")[2]
    for error in (StorageError("the disk is full"), ValueError("a bug")):

        def broken(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(place.world.store, "write", broken)
        monkeypatch.setattr(place.world.store, "read", broken)
        assert ana.client.get(ana.link).status_code in (500, 503)
        assert ana.get("me").status_code in (500, 503)
    assert "the disk is full" in caplog.text
    assert token not in caplog.text
