"""Whatever somebody with a link posts: an answer or a clear refusal, and only right answers are kept."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from sync.store.review_tables import OutboxRecord
from tests.fuzzing import fuzz, junk, numbers, texts
from tests.sync.web.review.place import POST, Place

Asking = Callable[..., Place]
VALUES = ("yes", "no", "unsure", "skip")

uuids = st.uuids().map(str)
cards = st.integers(0, 40)
"""the number of a card that the person was given, or of nobody's"""
answers = st.fixed_dictionaries(
    {"uuid": uuids | texts | junk, "card": cards | texts | junk},
    optional={
        "value": st.sampled_from(VALUES) | texts | junk,
        "seconds": numbers | junk,
        "wrong": st.lists(st.integers(-2, 9), max_size=4) | junk,
    },
)
right = st.fixed_dictionaries(
    {"uuid": uuids, "card": cards, "value": st.sampled_from(VALUES), "seconds": st.floats(0, 1e9)}
)
likely = st.fixed_dictionaries({"answers": st.lists(right | answers, min_size=1, max_size=3)})
bodies = likely | st.fixed_dictionaries(
    {}, optional={"answers": st.lists(answers | junk, max_size=4) | junk, "shown": texts | cards | junk,
                  "cards": st.lists(cards | junk, max_size=4) | junk, "card": cards | junk},
)  # fmt: skip
routes = st.sampled_from(["answers", "give-back", "undo"])


def test_any_posted_body(asking: Asking) -> None:
    place = asking(page={"review_requests": 10**6, "review_address_requests": 10**6})
    ana = place.person()
    names = [card["id"] for card in ana.cards()]

    def named(value: Any) -> Any:
        """The body with real names in place of the numbers of cards."""
        if isinstance(value, dict):
            return {
                key: names[one % len(names)] if key in ("card", "shown") and type(one) is int else named(one)
                for key, one in value.items()
            }
        return [named(one) for one in value] if isinstance(value, list) else value

    def kept() -> int:
        with place.world.store.read() as session:
            return session.scalar(select(func.count()).select_from(OutboxRecord)) or 0

    @given(body=bodies | junk, route=routes)
    @fuzz(120)
    def posted(body: Any, route: str) -> None:
        before = kept()
        reply = ana.client.post(
            f"/review/api/{route}",
            data=json.dumps(named(body)),
            content_type="application/json",
            headers=POST,
        )
        assert reply.status_code in (200, 400, 409, 429), reply.text
        if reply.status_code != 200:
            assert reply.json["error"]
            assert kept() == before
        elif route == "answers":
            stored = set(reply.json["stored"])
            assert kept() - before <= len(stored)
            assert all(str(uuid.UUID(name)) == name for name in stored)
            assert all(refused["error"] for refused in reply.json["refused"])

    posted()
    assert kept() > 0, "some were right"
    with place.world.store.read() as session:
        for row in session.scalars(select(OutboxRecord)):
            assert row.value["value"] in VALUES
            assert 0 <= row.seconds <= 3600
    place.flush()


def test_any_query(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    stream = ana.stream

    @given(
        query=st.fixed_dictionaries(
            {"stream": st.just(stream) | texts},
            optional={"n": st.just("3") | texts, "have": texts, "shown": texts, "order": texts},
        )
    )
    @fuzz(60)
    def asked(query: dict[str, str]) -> None:
        sent = {key: value.encode("utf-8", "replace").decode() for key, value in query.items()}
        for path in ("cards", "stats"):
            reply = ana.get(path, **sent)
            assert reply.status_code in (200, 400, 429), reply.text
            assert reply.status_code == 200 or reply.json["field"] or reply.status_code == 429

    asked()


def test_a_time_of_400_digits_is_refused(asking: Asking) -> None:
    place = asking()
    ana = place.person()
    card = ana.cards()[0]["id"]
    reply = ana.post(
        "answers",
        {"answers": [{"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": 10**400}]},
    )
    assert (reply.status_code, len(reply.json["refused"])) == (200, 1)
    assert "seconds" in reply.json["refused"][0]["error"]
