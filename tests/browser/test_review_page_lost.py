"""The review page when the connection, the server or the link goes away: nothing is lost or doubled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.review_screen import (
    Opener,
    counts,
    keeps,
    press,
    settled,
    shown,
    singles,
    told,
    wait_answers,
)
from tests.browser.review_stand_in import StandIn, single_card

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser


def test_answers_without_a_connection_are_kept_and_sent_when_it_is_back(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    settled(page, 8)
    page.context.set_offline(True)
    for i in range(3):
        press(page, "y", f"s{i + 1}")
    page.get_by_text("3 answers wait to be sent").wait_for()
    keeps(page, 3)
    assert state.answers == []
    counts(page, "3 answered · 27 left")
    page.context.set_offline(False)
    wait_answers(page, state, 3)
    page.locator("#wire").wait_for(state="hidden")
    keeps(page, 0)
    assert [a["card"] for a in state.answers] == ["s0", "s1", "s2"]


def test_answers_outlive_a_reload_while_the_server_is_away(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    state.away = True
    for i, key in enumerate("ynu"):
        press(page, key, f"s{i + 1}")
    page.get_by_text("3 answers wait to be sent").wait_for()
    page.reload()
    page.get_by_text("The server cannot be reached").wait_for()
    keeps(page, 3)
    state.away = False
    wait_answers(page, state, 3)  # by itself
    shown(page, "s3")  # and no card comes a second time
    assert state.said(3) == ["yes", "no", "unsure"]
    assert [a["card"] for a in state.answers] == ["s0", "s1", "s2"]


def test_an_answer_whose_receipt_was_lost_is_stored_once(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")

    def cut(route: Route) -> None:
        route.fetch()  # the server stores it
        route.abort()  # and the page does not hear of it

    page.route("**/api/answers", cut)
    press(page, "y", "s1")
    page.get_by_text("1 answer waits to be sent").wait_for()
    page.keyboard.press("Backspace")  # the server may have it: only the server can take it back
    told(page, "Not taken back yet")
    press(page, "n", "s2")
    page.keyboard.press("Backspace")  # this one never left
    shown(page, "s1")
    page.unroute("**/api/answers")
    page.get_by_role("button", name="Try now").click()
    page.locator("#wire").wait_for(state="hidden", timeout=60_000)  # a try that fails now waits up to 15 s
    assert state.said(1) == ["yes"]
    assert len(state.uuids) >= 2
    assert len(set(state.uuids)) == 1
    page.keyboard.press("Backspace")
    shown(page, "s0")
    assert state.answers == []


def test_a_slow_server_holds_nobody_up(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    settled(page, 8)
    state.door.clear()
    for i in range(8):
        press(page, "y", f"s{i + 1}")  # all from the cards at hand
    assert state.answers == []
    state.door.set()
    wait_answers(page, state, 8)
    assert len(set(state.uuids)) == len(state.uuids) == 8


def test_a_withdrawn_link_is_said_and_loses_nothing(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    settled(page, 8)
    press(page, "y", "s1")
    wait_answers(page, state, 1)
    settled(page, 8)  # a question of the page itself would hear of the link first
    state.link = "revoked"
    page.keyboard.press("n")
    page.get_by_role("heading", name="This link was withdrawn").wait_for()
    page.get_by_text("Ask Ada for a new one.").wait_for()
    page.get_by_text("1 answer not sent yet: kept on this device.").wait_for()
    page.locator("#tools").wait_for(state="hidden")
    page.reload()
    page.get_by_text("1 answer not sent yet: kept on this device.").wait_for()
    state.link = ""  # a new link of the same person
    page.reload()
    wait_answers(page, state, 2)
    shown(page, "s2")
    assert state.said(2) == ["yes", "no"]


@pytest.mark.parametrize(
    ("link", "heading"), [("expired", "This link has expired"), ("invalid", "not valid")]
)
def test_a_bad_link_is_explained(open_page: Opener, link: str, heading: str) -> None:
    page = open_page(singles(3))
    page.goto(f"{page.url}?link={link}")
    page.get_by_role("heading", name=heading).wait_for()
    assert "link=" not in page.url
    page.reload()  # whoever has a good link already goes on
    shown(page, "s0")


def test_answers_of_one_person_are_never_sent_as_those_of_another(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    state.away = True
    press(page, "y", "s1")
    page.get_by_text("1 answer waits to be sent").wait_for()
    state.person, state.away = "p2", False  # somebody else's link was opened in this browser
    page.get_by_role("heading", name="Another link was opened").wait_for()
    page.reload()
    shown(page, "s0")
    press(page, "n", "s1")
    wait_answers(page, state, 1)
    assert state.said(1) == ["no"]
    keeps(page, 1)
    state.person = "p1"
    page.reload()
    wait_answers(page, state, 2)
    assert state.said(2) == ["no", "yes"]


def test_an_answer_that_the_server_refuses_is_said_and_holds_up_no_other(open_page: Opener) -> None:
    state = singles(30, refuse={"s0"})
    page = open_page(state)
    shown(page, "s0")
    press(page, "y", "s1")
    told(page, "An answer was not taken: somebody else was faster")
    press(page, "n", "s2")
    wait_answers(page, state, 1)
    assert state.said(1) == ["no"]
    keeps(page, 0)


def test_two_pages_of_one_person_share_the_waiting_answers(open_page: Opener) -> None:
    state = StandIn({"A": [single_card(i) for i in range(9)], "B": [single_card(i) for i in range(20, 29)]})
    page = open_page(state, welcome=True)
    page.get_by_role("button", name="A 9 cards left").click()
    page.get_by_role("button", name="Start").click()
    shown(page, "s0")
    other: Any = page.context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="B 9 cards left").click()
    shown(other, "s20")
    state.away = True
    press(page, "y", "s1")
    press(other, "n", "s21")
    page.get_by_text("1 answer waits to be sent").wait_for()
    other.get_by_text("1 answer waits to be sent").wait_for()
    keeps(page, 2)
    state.away = False
    wait_answers(page, state, 2)
    assert sorted(state.said(2)) == ["no", "yes"]
    assert len({a["uuid"] for a in state.answers}) == 2


def test_one_broken_entry_on_the_device_holds_up_no_other(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    state.away = True
    press(page, "y", "s1")
    press(page, "n", "s2")
    page.get_by_text("2 answers wait to be sent").wait_for()
    page.evaluate("""() => {
        localStorage.setItem('groundswell-answer:p1:a', '{"uuid": "half an ans');
        localStorage.setItem('groundswell-answer:p1:b', 'null');
        localStorage.setItem('groundswell-answer:p1:c', '{"card": "s9", "value": "yes"}');
    }""")
    page.reload()
    page.get_by_text("The server cannot be reached").wait_for()
    state.away = False
    told(page, "3 answers kept on this device cannot be read")
    wait_answers(page, state, 2)
    shown(page, "s2")
    assert state.said(2) == ["yes", "no"]
    assert len(set(state.uuids)) == 2, "nothing that is no answer is sent"
    keeps(page, 0)
    aside = page.evaluate(
        "Object.keys(localStorage).filter(key => key.startsWith('groundswell-unreadable:p1:')).length"
    )
    assert aside == 3, "nothing is thrown away"
