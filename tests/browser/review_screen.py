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


def escape(page: Page) -> None:
    """Close the dialog; keys mean the card again only when it is gone."""
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="hidden")
    page.wait_for_timeout(200)  # the page hears of it a moment later, sooner than a finger finds the next key


def awake(page: Page) -> None:
    """Wait until keys mean the card: they rest a moment after another label or a card that went away."""
    page.locator("#stage[data-card]:not([data-resting])").wait_for()


def press(page: Page, key: str, then: str) -> None:
    """Press a key on the card on screen and wait for the next card."""
    awake(page)
    page.keyboard.press(key)
    shown(page, then)


def wait_answers(page: Page, state: StandIn, count: int) -> None:
    for _ in range(300):
        if len(state.answers) >= count:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{len(state.answers)} answers arrived, not {count}")


def singles(n: int, label: str = "washer", **more: Any) -> StandIn:
    return StandIn({"Metal parts": [single_card(i, label) for i in range(n)]}, **more)
