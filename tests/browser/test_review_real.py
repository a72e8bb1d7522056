"""The review page on the real backend and Label Studio: what people press becomes their annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sync.review.review_tasks import parse_answers
from sync.studio.client import Studio
from tests.browser.review_place import ReviewPlace, review_place
from tests.browser.review_screen import DESKTOP, PHONE, escape

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]


def enter(browser: Browser, link: str, *, phone: bool = False) -> Page:
    """Open an invite link and close the welcome."""
    page = browser.new_context(**(PHONE if phone else DESKTOP)).new_page()
    page.set_default_timeout(30_000)
    page.goto(link)
    assert page.url.endswith("/review/")  # the link leaves the address bar
    page.locator("dialog[open]").wait_for()
    escape(page)
    page.locator("#stage[data-card]").wait_for()
    return page


def answer(page: Page, key: str) -> None:
    """Press a key and wait until another card, or none, is on screen."""
    card = page.locator("#stage").get_attribute("data-card")
    page.keyboard.press(key)
    page.wait_for_function("c => document.getElementById('stage').dataset.card !== c", arg=card)


def written(here: ReviewPlace, page: Page, count: int) -> list[tuple[int | None, str, str]]:
    """Who said what to which question, once Label Studio holds this many annotations."""
    review_id = here.made.review_project_id
    for _ in range(150):
        tasks = list(here.studio.tasks(review_id))
        found = [
            (a.completed_by, raw) for t in tasks for a in t.annotations for raw in parse_answers(t.data, a)
        ]
        if len(found) >= count:
            return [(user, raw.question_key, raw.value) for user, raw in found]
        page.wait_for_timeout(200)
    pytest.fail(f"{count} answers were expected in Label Studio")


def test_answers_of_two_people_at_once_are_their_own_annotations(
    studio: Studio, tmp_path: Path, browser: Browser
) -> None:
    with review_place(studio, tmp_path, questions=30) as here:
        ada = enter(browser, here.invite("Ada").link)
        ben = enter(browser, here.invite("Ben").link, phone=True)
        pages = {"yes": ada, "no": ben}
        for i in range(8):
            for word, page in pages.items():
                if i % 4 == 3:
                    page.wait_for_timeout(350)  # the label may have changed
                answer(page, word[0])
        found = written(here, ada, 16)
        assert len(found) == len({key for _, key, _ in found}) == 16  # nobody got the other's question
        said = {user: {value for u, _, value in found if u == user} for user, _, _ in found}
        assert sorted(map(sorted, said.values())) == [["no"], ["yes"]]
        ada.keyboard.press("Backspace")
        ada.get_by_text("Taken back").wait_for()
        answer(ada, "u")
        for _ in range(150):
            found = written(here, ada, 16)
            if "unsure" in {value for _, _, value in found}:
                break
            ada.wait_for_timeout(200)
        values = [value for _, _, value in found]
        assert sorted(values) == ["no"] * 8 + ["unsure"] + ["yes"] * 7
        for page in pages.values():
            page.context.close()
