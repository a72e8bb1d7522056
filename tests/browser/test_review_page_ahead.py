"""Cards that a page fetched ahead: given back when nobody looks, and dropped when somebody else has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.review_screen import (
    Opener,
    escape,
    press,
    settled,
    shown,
    singles,
    told,
    wait_answers,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.review_stand_in import StandIn

pytestmark = pytest.mark.browser

HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
    document.dispatchEvent(new Event('visibilitychange'));
}"""
"""as if the person looked at another window; no headless browser does that by itself"""


def wait_for(page: Page, is_there: object) -> None:
    for _ in range(600):
        if is_there():  # type: ignore[operator]
            return
        page.wait_for_timeout(50)
    pytest.fail("it did not come")


def full(page: Page, state: StandIn, first: str) -> None:
    """Wait until the deck is filled and the server knows which card is on the screen."""
    shown(page, first)
    settled(page, 8)
    wait_for(page, lambda: first in state.shown)


def test_the_server_hears_which_card_is_on_the_screen(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    full(page, state, "s0")
    press(page, "y", "s1")
    wait_answers(page, state, 1)
    wait_for(page, lambda: "s1" in state.shown)
    press(page, "Backspace", "s0")
    wait_for(page, lambda: state.shown[-1] == "s0")


def test_a_hidden_page_gives_its_cards_back_and_asks_which_are_still_its_own(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    full(page, state, "s0")
    page.evaluate(HIDE, True)
    wait_for(page, lambda: len(state.given_back) >= 8)
    assert "s0" not in state.given_back, "somebody looks at it again when they come back"
    assert {"s1", "s2", "s3"} <= set(state.given_back)
    state.lost = {"s1", "s3"}  # somebody else got these
    state.door.clear()
    page.evaluate(HIDE, False)
    page.keyboard.press("y")
    page.get_by_text("Loading").wait_for()  # not a card that may be somebody else's
    state.door.set()
    shown(page, "s2")
    press(page, "n", "s4")
    wait_answers(page, state, 2)
    assert [a["card"] for a in state.answers] == ["s0", "s2"]


def test_a_closed_page_gives_all_its_cards_back(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    full(page, state, "s0")
    press(page, "y", "s1")
    wait_answers(page, state, 1)
    other = page.context.new_page()
    page.close(run_before_unload=False)
    wait_for(other, lambda: "s1" in state.given_back)
    assert "s2" in state.given_back
    assert "s0" not in state.given_back, "it was answered"


def test_a_card_that_somebody_else_got_makes_way_for_the_next(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    full(page, state, "s0")
    state.lost = {"s1", "s3"}
    page.keyboard.press("y")
    told(page, "That card went to somebody else")
    shown(page, "s2")
    press(page, "n", "s4")
    wait_answers(page, state, 2)
    assert [a["card"] for a in state.answers] == ["s0", "s2"]


def test_another_order_of_the_same_pictures_gives_nothing_back(open_page: Opener) -> None:
    state = singles(30, orders=("project", "surest"))
    page = open_page(state)
    full(page, state, "s0")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Which pictures come first").select_option("surest")
    escape(page)
    shown(page, "s29")
    settled(page, 8)
    assert state.given_back == []
