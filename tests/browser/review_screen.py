"""What tests of the review page share: screens, what can be seen on them, and a person's key presses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.review_stand_in import StandIn, single_card

if TYPE_CHECKING:
    from playwright.sync_api import Page

DESKTOP: dict[str, Any] = {"viewport": {"width": 1366, "height": 768}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
OUTSIDE = """() => [...document.querySelectorAll('#top button, #bottom button, .crop, .tile, .question')]
    .filter(e => e.checkVisibility())
    .map(e => [e.textContent, e.getBoundingClientRect()])
    .filter(([, b]) => b.left < 0 || b.top < 0 || b.right > innerWidth || b.bottom > innerHeight)
    .map(([text]) => text)"""
"""what of the card cannot be seen without scrolling"""
SMALL = """() => [...document.querySelectorAll('button')].filter(e => e.checkVisibility())
    .map(e => [e.textContent, e.getBoundingClientRect()])
    .filter(([, b]) => b.width < 44 || b.height < 44).map(([text]) => text)"""
"""buttons that a thumb misses"""
Opener = Callable[..., "Page"]
"""opens the page of a stand-in, past its welcome"""


def shown(page: Page, card: str) -> None:
    """Wait until a person sees this card."""
    page.locator(f"#stage[data-card='{card}']").wait_for()


SEEN = """(() => {
    window.groundswellSeen = {said: [], turns: [], at: {}};
    const look = () => {
        const note = (list, text) => text && text !== list.at(-1) && list.push(text);
        note(groundswellSeen.said, document.getElementById('toast')?.textContent);
        note(groundswellSeen.turns, document.querySelector('.turn')?.textContent);
        const card = document.getElementById('stage')?.dataset.card;
        if (card) groundswellSeen.at[card] ??= performance.now();
    };
    const what = {subtree: true, childList: true, attributeFilter: ['data-card']};
    new MutationObserver(look).observe(document, what);
})()"""
"""Notes what is on the page for a few seconds only, and when each card was seen: slow machines look late."""


def told(page: Page, text: str) -> None:
    """Wait until the page has said this in the line that goes away by itself."""
    page.wait_for_function("text => groundswellSeen.said.some(said => said.includes(text))", arg=text)


def settled(page: Page, ahead: int = 0) -> None:
    """Wait until so many cards are at hand, the server is asked for none, and no answer is on its way."""
    page.wait_for_function(
        """ahead => {
            const {card, asking, ahead: held} = document.getElementById('stage').dataset;
            return card && asking === undefined && Number(held) >= ahead
                && !Object.keys(localStorage).some(key => key.startsWith('groundswell-answer:'));
        }""",
        arg=ahead,
    )


def counts(page: Page, text: str) -> None:
    """Wait until the counts above the card say this."""
    page.wait_for_function("text => document.getElementById('counts').textContent === text", arg=text)


def keeps(page: Page, count: int) -> None:
    """Wait until so many answers wait on the device: the page hears of an arrival after the server has it."""
    page.wait_for_function(
        "n => Object.keys(localStorage).filter(key => key.startsWith('groundswell-answer:')).length === n",
        arg=count,
    )


def escape(page: Page) -> None:
    """Close the dialog; what it covered counts again only when its content is gone."""
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="hidden")
    page.locator("#dialog-body:empty").wait_for(state="attached")


def awake(page: Page) -> None:
    """Wait until keys mean the card: they rest a moment after another label or a card that went away."""
    page.locator("#stage[data-card]:not([data-resting])").wait_for()


def press(page: Page, key: str, then: str) -> None:
    """Press a key on the card on screen and wait for the next card."""
    awake(page)
    page.keyboard.press(key)
    shown(page, then)


def wait_answers(page: Page, state: StandIn, count: int) -> None:
    for _ in range(600):
        if len(state.answers) >= count:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{len(state.answers)} answers arrived, not {count}")


def singles(n: int, label: str = "washer", **more: Any) -> StandIn:
    return StandIn({"Metal parts": [single_card(i, label) for i in range(n)]}, **more)
