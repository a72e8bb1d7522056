"""Times of answers: nobody claims more than has passed, and nobody loses time to a connection or a clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from sync.store.database import utc_now
from tests.sync.web.review.place import PersonAtBrowser, Place

Asking = Callable[..., Place]


class Clock:
    """The clock of the server, set by hand."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def goes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("sync.web.review.answering.utc_now", found)
    return found


def send(person: PersonAtBrowser, cards: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Answers in one request; what was sent."""
    body = [{"uuid": str(uuid.uuid4()), "card": card, "value": "yes", "seconds": seconds} for card in cards]
    reply = person.post("answers", {"answers": body})
    assert len(reply.json["stored"]) == len(cards)
    return body


def times(place: Place) -> list[float]:
    """Seconds of all answers as Label Studio has them."""
    place.flush(limit=100)
    return [float(rows[0].lead_time_s or 0.0) for rows in place.annotations().values()]


def test_answers_that_waited_for_a_connection_keep_their_times(asking: Asking, clock: Clock) -> None:
    place = asking()
    ana = place.person()
    cards = [card["id"] for card in ana.cards()][:12]
    clock.goes(40.0)
    # as the page does it: first what may have arrived, then at once what was answered meanwhile
    send(ana, cards[:1], 3.0)
    clock.goes(0.1)
    send(ana, cards[1:], 3.0)
    assert times(place) == [3.0] * 12


def test_many_requests_claim_no_more_than_one(asking: Asking, clock: Clock) -> None:
    place = asking()
    ana = place.person()
    cards = [card["id"] for card in ana.cards()][:12]
    for card in cards:
        clock.goes(0.1)
        send(ana, [card], 2.0)
    assert len(cards) == 12
    assert sum(times(place)) <= 12 * 0.1 + 2.0 + 1e-2


def test_who_takes_one_card_at_a_time_claims_no_more(asking: Asking, clock: Clock) -> None:
    place = asking()
    ana = place.person()
    for _ in range(12):
        (card,) = ana.cards(n=1)
        clock.goes(0.1)
        send(ana, [card["id"]], 2.0)
    assert sum(times(place)) <= 12 * 0.1 + 2.0 + 1e-2


def test_an_answer_sent_again_takes_no_time_from_others(asking: Asking, clock: Clock) -> None:
    place = asking()
    ana = place.person()
    first, second = [card["id"] for card in ana.cards()][:2]
    clock.goes(20.0)
    body = send(ana, [first], 20.0)
    clock.goes(5.0)
    fresh = {"uuid": str(uuid.uuid4()), "card": second, "value": "yes", "seconds": 5.0}
    assert len(ana.post("answers", {"answers": [*body, fresh]}).json["stored"]) == 2
    assert sorted(times(place)) == [5.0, 20.0]


def test_a_clock_that_was_set_back_makes_no_answer_too_fast(asking: Asking, clock: Clock) -> None:
    place = asking()
    ana = place.person()
    first, second, third = [card["id"] for card in ana.cards()][:3]
    send(ana, [first], 1.5)
    clock.goes(-3600.0)
    send(ana, [second], 1.5)
    (fresh,) = [card["id"] for card in ana.cards(have=[third])][-1:]
    clock.goes(1.0)
    send(ana, [fresh], 1.0)
    assert min(times(place)) >= 1.0
