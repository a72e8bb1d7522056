"""Fixtures of the tests in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.review_screen import DESKTOP, SEEN, Opener, escape
from tests.browser.review_stand_in import StandIn, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """Opens the page of a stand-in, past its welcome; the console must stay free of errors of the page."""
    errors: list[str] = []
    with ExitStack() as stack:

        def open_one(state: StandIn, *, welcome: bool = False, **context: Any) -> Page:
            url = stack.enter_context(serve(state))
            made: BrowserContext = browser.new_context(**(context or DESKTOP))
            made.add_init_script(SEEN)
            stack.callback(made.close)
            page = made.new_page()
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda m: errors.append(m.text) if "Content Security" in m.text else None)
            page.goto(url)
            if not welcome:
                page.locator("dialog[open]").wait_for()
                escape(page)
            return page

        yield open_one
    assert errors == []
