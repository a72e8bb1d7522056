"""The review page alone, in a real browser: keys, touch, undo, sheets, classes, auto mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.review_screen import (
    OUTSIDE,
    PHONE,
    SMALL,
    Opener,
    awake,
    counts,
    escape,
    keeps,
    press,
    shown,
    singles,
    told,
    wait_answers,
)
from tests.browser.review_stand_in import StandIn, class_card, sheet_card, single_card

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_one_key_is_one_answer_and_the_next_card_is_there(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    for i, key in enumerate(["y", "n", "u", "s", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "Y"]):
        press(page, key, f"s{i + 1}")
    page.get_by_role("button", name="No n").click()
    shown(page, "s10")
    wait_answers(page, state, 10)
    words = ["yes", "no", "unsure", "skip"]
    assert state.said(len(words) + 6) == [*words, "yes", "no", "unsure", "skip", "yes", "no"]
    assert [a["card"] for a in state.answers] == [f"s{i}" for i in range(10)]
    assert len(set(state.uuids)) == len(state.uuids) == 10
    assert all(a["seconds"] > 0 and "auto" not in a for a in state.answers)
    counts(page, "10 answered · 20 left")
    page.locator("#progress[aria-valuenow='10']").wait_for()


def test_a_key_that_is_held_answers_one_card(open_page: Opener) -> None:
    state = singles(20)
    page = open_page(state)
    shown(page, "s0")
    page.keyboard.down("y")
    shown(page, "s1")
    for _ in range(5):
        page.keyboard.down("y")  # playwright sends these as repeats
        page.wait_for_timeout(40)
    page.keyboard.up("y")
    press(page, "n", "s2")
    wait_answers(page, state, 2)
    assert state.said(2) == ["yes", "no"]


def test_ten_answers_can_be_taken_back(open_page: Opener) -> None:
    state = singles(30)
    page = open_page(state)
    shown(page, "s0")
    for i in range(12):
        press(page, "y", f"s{i + 1}")
    for i in range(11, 1, -1):
        press(page, "Backspace", f"s{i}")
    page.locator("#undo:disabled").wait_for()
    page.locator(".answer.yes.before").wait_for()  # what was said before is marked
    wait_answers(page, state, 2)
    assert len(state.answers) == 2
    for i in range(2, 6):
        press(page, "n", f"s{i + 1}")  # the cards come again, in their order
    wait_answers(page, state, 6)
    assert state.said(6) == ["yes"] * 2 + ["no"] * 4
    page.reload()  # the page has forgotten its cards; the server still knows the answers
    shown(page, "s6")
    page.locator("#undo").click()
    shown(page, "s5")
    page.locator(".past").last.click()  # any of the last ten, not only the newest
    shown(page, "s2")
    assert len(state.answers) == 4


def test_a_sheet_is_ticked_by_number_and_by_tap_and_sent_by_enter(open_page: Opener) -> None:
    state = StandIn({"Sheets": [sheet_card(0, 9), sheet_card(1, 10), sheet_card(2, 4)]})
    page = open_page(state)
    shown(page, "t0")
    assert page.evaluate(OUTSIDE) == []  # all nine of them
    page.keyboard.press("2")
    page.keyboard.press("5")
    page.keyboard.press("2")
    page.locator(".tile").nth(8).click()
    page.get_by_role("button", name="Send: 2 wrong, 7 good").wait_for()
    assert page.locator(".tile[aria-pressed=true] .mark:visible").count() == 2
    page.keyboard.press("Shift+Digit3")
    page.locator("dialog[open] .large img").first.wait_for()  # seen large, not ticked
    escape(page)
    press(page, "Enter", "t1")
    page.keyboard.press("0")
    press(page, "Enter", "t2")
    page.keyboard.press("Enter")
    wait_answers(page, state, 3)
    assert state.said(3) == [[4, 8], [9], []]


def test_sheets_fit_the_screen_of_a_phone(open_page: Opener) -> None:
    state = StandIn({"Sheets": [sheet_card(0, 9), sheet_card(1, 9)]})
    page = open_page(state, **PHONE)
    shown(page, "t0")
    assert page.evaluate(OUTSIDE) == []
    page.locator(".tile").nth(3).tap()
    page.get_by_role("button", name="Send: 1 wrong, 8 good").tap()
    shown(page, "t1")
    tile = page.locator(".tile").nth(0).bounding_box()
    assert tile is not None
    page.mouse.move(tile["x"] + 30, tile["y"] + 30)
    page.mouse.down()
    page.locator("dialog[open] .large img").first.wait_for()  # a long press shows it large
    page.mouse.up()
    escape(page)
    assert page.locator(".tile[aria-pressed=true]").count() == 0
    page.get_by_role("button", name="Send: all are good").tap()
    wait_answers(page, state, 2)
    assert state.said(2) == [[3], []]


def swipe(page: Page, dx: int, dy: int) -> None:
    """One finger on the picture, moved by this many pixels."""
    box = page.locator(".crop").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    finger = page.context.new_cdp_session(page)
    steps = [("touchStart", 0.0), ("touchMove", 0.5), ("touchMove", 1.0)]
    for kind, share in steps:
        points = [{"x": x + share * dx, "y": y + share * dy}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_phone_needs_no_scrolling_and_takes_swipes(open_page: Opener) -> None:
    state = singles(20)
    page = open_page(state, **PHONE)
    shown(page, "s0")
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(SMALL) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Yes").tap()
    shown(page, "s1")
    for i, way in enumerate([(120, 5), (-120, 5), (5, -120), (5, 120)]):
        swipe(page, *way)
        shown(page, f"s{i + 2}")
    swipe(page, 20, 0)  # a finger that only rests says nothing
    wait_answers(page, state, 5)
    assert state.said(5) == ["yes", "yes", "no", "unsure", "skip"]


def test_auto_mode_answers_until_space_stops_it(open_page: Opener) -> None:
    state = singles(200, auto_s=0.5)
    page = open_page(state)
    shown(page, "s0")
    page.keyboard.press("Space")
    page.locator("#auto-bar").wait_for()
    page.locator("#auto[aria-pressed=true]").wait_for()
    wait_answers(page, state, 3)
    page.keyboard.press("Space")
    page.locator("#auto-bar").wait_for(state="hidden")
    keeps(page, 0)  # what it had said has arrived
    stopped = len(state.answers)
    page.wait_for_timeout(1200)  # more than two of its times
    assert len(state.answers) == stopped
    assert all(a["value"] == "no" and a["auto"] is True for a in state.answers)
    for _ in range(30):
        page.keyboard.press("-")
    page.keyboard.press("Space")
    page.keyboard.press("y")  # a key answers at once, auto mode goes on
    wait_answers(page, state, stopped + 1)
    assert state.answers[stopped]["value"] == "yes"
    assert "auto" not in state.answers[stopped]
    page.reload()
    page.locator("#stage[data-card]").wait_for()
    page.locator("#show-look").click()
    page.get_by_text("10 s").wait_for()  # the speed is kept on the device


def test_auto_mode_waits_while_help_is_open_and_is_hidden_where_it_is_not_allowed(open_page: Opener) -> None:
    state = singles(20, auto_s=0.5)
    page = open_page(state)
    shown(page, "s0")
    page.keyboard.press("Space")
    page.keyboard.press("?")
    page.locator("dialog[open]").wait_for()
    keeps(page, 0)
    before = len(state.answers)
    page.wait_for_timeout(1200)
    assert len(state.answers) == before
    escape(page)
    wait_answers(page, state, before + 1)
    other = open_page(singles(3, auto_s=None))
    shown(other, "s0")
    assert not other.locator("#auto").is_visible()
    other.keyboard.press("Space")
    assert not other.locator("#auto-bar").is_visible()


TOO_SOON = """() => new MutationObserver((_, observer) => {
    observer.disconnect();
    document.dispatchEvent(new KeyboardEvent('keydown', { key: 'y', bubbles: true }));
}).observe(document.getElementById('stage'), { attributeFilter: ['data-card'] })"""
"""presses y in the moment in which the next card is seen"""


def test_a_new_label_is_announced_and_its_examples_are_shown(open_page: Opener) -> None:
    cards = [single_card(0), single_card(1), single_card(2, "leaf"), single_card(3, "leaf")]
    state = StandIn({"Parts": cards}, gold={"s0": "yes", "s1": "yes"})
    page = open_page(state)
    shown(page, "s0")
    press(page, "y", "s1")
    told(page, "✓ Right")
    page.locator(".past.right").wait_for()
    page.evaluate(TOO_SOON)
    press(page, "n", "s2")
    assert page.evaluate("groundswellSeen.turns") == ["Now: leaf"]
    assert page.evaluate("[...document.querySelectorAll('.strip img')].every(i => i.src.includes('/leaf-'))")
    assert page.locator(".bad figcaption").all_inner_texts() == ["shifted", "a part", "shifted"]
    told(page, "✗ Not right")
    press(page, "y", "s3")
    wait_answers(page, state, 3)
    assert state.said(3) == ["yes", "no", "yes"]
    page.locator(".past.wrong").wait_for()
    page.locator(".past.right").wait_for()


def test_a_class_is_one_key_and_several_are_sent_with_enter(open_page: Opener) -> None:
    cards = [*(class_card(i) for i in range(3)), class_card(3, exclusive=False), class_card(4)]
    state = StandIn({"Sort": cards}, mode={"Sort": "classes"})
    page = open_page(state)
    shown(page, "c0")
    assert page.evaluate(OUTSIDE) == []
    assert page.locator(".choice.suggested").text_content() == "washermodelw"
    press(page, "w", "c1")
    press(page, "n", "c2")
    press(page, "u", "c3")
    assert page.locator(".choice[aria-pressed=true]").count() == 0  # the model ticks nothing
    page.keyboard.press("w")
    page.keyboard.press("l")
    page.keyboard.press("a")
    page.keyboard.press("a")
    press(page, "Enter", "c4")
    wait_answers(page, state, 4)
    assert state.said(4) == [["washer"], ["nut"], "unsure", ["washer", "leaf"]]
    page.locator("#figures dt", has_text="leaf").wait_for()  # counts per class
    assert page.locator("#figures dt", has_text="agreement with the model").count() == 1
    assert page.locator("#figures dd", has_text="2 of 4").count() == 1
    page.get_by_text("between 69 and 98 % (95 % sure), 16 test pictures").wait_for()
    assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.getElementById('figures'))")


def test_the_order_of_pictures_can_be_chosen(open_page: Opener) -> None:
    cards = [class_card(i) for i in range(30)]
    state = StandIn({"Sort": cards}, mode={"Sort": "classes"}, orders=("project", "entropy", "surest"))
    page = open_page(state)
    shown(page, "c0")
    page.locator("#show-look").click()
    page.get_by_label("Which pictures come first").select_option("surest")
    shown(page, "c29")
    escape(page)
    press(page, "w", "c28")
    page.reload()
    shown(page, "c28")


def test_keys_of_classes_never_collide(open_page: Opener) -> None:
    page = open_page(singles(1))
    keys = page.evaluate(
        """async () => {
            const { assignKeys } = await import('/review/static/answer_bar.js');
            const wanted = ['a', 'a', 'u', '', 'Z', '1', '?', ' ', 'xy'];
            const many = Array.from({ length: 40 }, (_, i) => ({ value: String(i), key: '' }));
            return [assignKeys(wanted.map(key => ({ key }))), assignKeys(many)];
        }"""
    )
    few, many = keys
    assert few == ["a", "2", "3", "4", "5", "1", "6", "7", "8"]
    given = [key for key in many if key]
    assert len(set(given)) == len(given) >= 20
    assert not set(given) & set("uszxbcrth? ")


def looks(page: Page, what: str, value: str) -> None:
    """Wait until the picture looks so."""
    page.wait_for_function(
        "([what, value]) => getComputedStyle(document.querySelector('.crop img'))[what] === value",
        arg=[what, value],
    )


def test_look_and_zoom_are_kept_on_the_device(open_page: Opener) -> None:
    page = open_page(singles(10))
    shown(page, "s0")
    for key in ("b", "b", "Shift+C", "z", "z", "z", "z"):
        page.keyboard.press(key)
    page.reload()
    shown(page, "s0")
    looks(page, "filter", "brightness(1.2) contrast(0.9)")
    box = page.locator(".crop").bounding_box()
    assert box is not None
    x, y = box["x"] + 100, box["y"] + 100
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y + 30)
    page.mouse.up()
    looks(page, "transform", "matrix(2, 0, 0, 2, 50, 30)")
    page.keyboard.press("r")
    looks(page, "transform", "none")
    page.keyboard.press("x")
    page.locator(".card.swapped").wait_for()


def test_time_under_a_dialog_does_not_count(open_page: Opener) -> None:
    state = singles(5)
    page = open_page(state)
    shown(page, "s0")
    page.keyboard.press("?")
    page.locator("dialog[open]").wait_for()
    covered = -page.evaluate("performance.now()")
    page.wait_for_timeout(1500)
    covered += page.evaluate("performance.now()")
    escape(page)
    page.keyboard.press("y")
    seen = page.evaluate("performance.now() - groundswellSeen.at.s0")
    wait_answers(page, state, 1)
    assert state.answers[0]["seconds"] <= (seen - covered) / 1000 + 0.5


def test_texts_of_others_are_texts(open_page: Opener) -> None:
    evil = '<img src=x onerror="document.title=1"><b>bold</b>'
    card = single_card(0) | {"label": evil, "question": f"Is it a {evil}?"}
    tiles = sheet_card(1, 2)
    tiles["items"][0]["label"] = evil
    sort = class_card(2) | {"choices": [{"value": evil, "key": "e"}], "suggested": [], "question": evil}
    state = StandIn({evil: [card, tiles, sort]})
    page = open_page(state)
    shown(page, "s0")
    assert page.locator(".question .label").text_content() == evil
    press(page, "y", "t1")
    assert page.locator(".tile .name").first.text_content() == evil
    press(page, "Enter", "c2")
    awake(page)
    page.keyboard.press("e")
    page.get_by_text("All answered").wait_for()
    assert state.said(3) == ["yes", [], [evil]]
    assert page.locator("b:has-text('bold')").count() == 0
    assert evil in page.title()


def test_a_person_with_several_streams_chooses(open_page: Opener) -> None:
    state = StandIn(
        {"Metal parts": [single_card(0)], "Sort": [class_card(i) for i in range(3)]}, mode={"Sort": "classes"}
    )
    page = open_page(state, welcome=True)
    page.get_by_role("button", name="Sort 3 cards left").click()
    page.locator("dialog[open]").wait_for()
    escape(page)
    shown(page, "c0")
    page.reload()
    shown(page, "c0")  # the choice is kept
    page.get_by_label("What you review").select_option("Metal parts")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Enter")
    page.locator("dialog[open]").wait_for(state="hidden")
    shown(page, "s0")
    page.keyboard.press("y")
    page.get_by_text("All answered. Thank you!").wait_for()
    assert state.said(1) == ["yes"]


def test_a_picture_that_cannot_be_loaded_is_said(open_page: Opener) -> None:
    state = StandIn({"Parts": [single_card(0) | {"crop": "/review/picture/nothing.jpg"}, single_card(1)]})
    page = open_page(state)
    page.get_by_text("This picture cannot be loaded.").wait_for()
    press(page, "s", "s1")
    wait_answers(page, state, 1)
    assert state.said(1) == ["skip"]
