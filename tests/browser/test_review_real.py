"""The review page on the real backend and Label Studio: what people press becomes their annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sync.lab.sample_set import LABELS
from sync.review.outbox import CLASSES
from sync.review.review_tasks import parse_answers
from sync.store.tables import ProjectRecord
from sync.studio.client import Studio
from sync.web.review.invites import revoke_invite
from tests.browser.review_place import ReviewPlace, review_place
from tests.browser.review_screen import DESKTOP, PHONE, SEEN, awake, counts, escape, settled, told

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]

CARDS = "**/review/api/cards*"


def enter(browser: Browser, link: str, *, phone: bool = False) -> Page:
    """Open an invite link and close the welcome."""
    context = browser.new_context(**(PHONE if phone else DESKTOP))
    context.add_init_script(SEEN)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(link)
    page.wait_for_url("**/review/")  # the link leaves the address bar
    page.locator("dialog[open]").wait_for()
    escape(page)
    page.locator("#stage[data-card]").wait_for()
    return page


def answer(page: Page, key: str) -> None:
    """Press a key and wait until another card, or none, is on screen."""
    awake(page)
    card = page.locator("#stage").get_attribute("data-card")
    page.keyboard.press(key)
    page.wait_for_function("c => document.getElementById('stage').dataset.card !== c", arg=card)


def written(
    here: ReviewPlace, page: Page, count: int, review_id: int = 0
) -> list[tuple[int | None, str, str]]:
    """Who said what to which question, once Label Studio holds this many annotations."""
    review_id = review_id or here.made.review_project_id
    for _ in range(300):
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
    # more than both can hold: neither gets a card that the other one has only fetched
    with review_place(studio, tmp_path, questions=48, pictures=4) as here:
        ada = enter(browser, here.invite("Ada").link)
        ben = enter(browser, here.invite("Ben").link, phone=True)
        pages = {"yes": ada, "no": ben}
        for _ in range(8):
            for word, page in pages.items():
                answer(page, word[0])
        found = written(here, ada, 16)
        assert len(found) == len({key for _, key, _ in found}) == 16  # nobody got the other's question
        said = {user: {value for u, _, value in found if u == user} for user, _, _ in found}
        assert sorted(map(sorted, said.values())) == [["no"], ["yes"]]
        answer(ada, "Backspace")
        told(ada, "Taken back")
        answer(ada, "u")
        for _ in range(300):
            found = written(here, ada, 16)
            if "unsure" in {value for _, _, value in found}:
                break
            ada.wait_for_timeout(200)
        values = [value for _, _, value in found]
        assert sorted(values) == ["no"] * 8 + ["unsure"] + ["yes"] * 7
        for page in pages.values():
            page.context.close()


def test_near_the_end_nobody_waits_for_cards_that_others_only_hold(
    studio: Studio, tmp_path: Path, browser: Browser
) -> None:
    with review_place(studio, tmp_path, questions=10) as here:
        ada = enter(browser, here.invite("Ada").link)
        ada.wait_for_function("() => document.getElementById('counts').textContent.includes('10 left')")
        settled(ada, 9)  # by now she holds all ten of them
        ben = enter(browser, here.invite("Ben").link)  # and he gets some at once
        for page in (ada, ben, ben):
            answer(page, "y")
        ada.close()  # what she held comes back
        for _ in range(240):  # the last ones come when the server has heard of it
            if ben.locator("#stage[data-card]").count():
                answer(ben, "y")
            elif len(written(here, ben, 3)) == 10:
                break
            else:
                ben.wait_for_timeout(500)
        found = written(here, ben, 10)
        assert len(found) == len({key for _, key, _ in found}) == 10  # each question once
        assert len({user for user, _, _ in found}) == 2
        ben.context.close()


def test_a_sheet_is_written_and_bad_links_let_nobody_in(
    studio: Studio, tmp_path: Path, browser: Browser
) -> None:
    with review_place(studio, tmp_path, questions=36, form=1) as here:
        first = here.invite("Ada")
        stranger = browser.new_context(**DESKTOP).new_page()
        stranger.goto(first.link[:-4] + "AAAA")  # forged
        stranger.get_by_role("heading", name="This link is not valid").wait_for()
        stranger.reload()
        stranger.get_by_role("heading", name="Please open your invite link").wait_for()
        stranger.context.close()
        page = enter(browser, first.link)
        tiles = page.locator(".tile").count()
        page.keyboard.press("1")
        page.keyboard.press("3")
        answer(page, "Enter")
        with here.store.read() as session:
            sheets = session.get_one(ProjectRecord, here.made.project_id).sheet_project_id
        assert sheets is not None
        said = written(here, page, tiles, sheets)
        assert [value for _, _, value in said] == ["no", "yes", "no"] + ["yes"] * (tiles - 3)
        settled(page)
        page.route(
            CARDS, lambda route: route.abort()
        )  # else a question of the page itself may hear of it first
        revoke_invite(here.settings, here.store, first.id)
        awake(page)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="This link was withdrawn").wait_for()
        page.get_by_text("1 answer not sent yet: kept on this device.").wait_for()
        page.unroute(CARDS)
        page.goto(first.link)
        page.get_by_role("heading", name="This link was withdrawn").wait_for()
        page.goto(here.invite("Ada").link)  # a new link of the same person, in the same browser
        page.locator("#stage[data-card]").wait_for()
        users = {user for user, _, _ in written(here, page, tiles + 1, sheets)}
        assert len(users) == 1
        other = page.context.new_page()
        other.goto(here.invite("Ben").link)  # somebody else sits down at the same browser
        other.wait_for_function("() => document.getElementById('counts').textContent !== ''")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Another link was opened in this browser").wait_for()
        assert {user for user, _, _ in written(here, page, tiles + 1, sheets)} == users
        page.context.close()


def test_classes_are_annotations_of_the_label_project(
    studio: Studio, tmp_path: Path, browser: Browser
) -> None:
    with review_place(studio, tmp_path, questions=0, pictures=3, kind="classes") as here:
        page = enter(browser, here.invite("Ada", CLASSES).link)
        keys = [button.text_content() for button in page.locator(".choice kbd").all()]
        answer(page, str(keys[1]))
        answer(page, str(keys[0]))
        answer(page, "Backspace")
        answer(page, str(keys[3]))
        found: list[str] = []
        for _ in range(300):
            tasks = sorted(here.studio.tasks(here.made.project_id), key=lambda task: task.id)
            found = [str(a.result[0]["value"]["choices"][0]) for task in tasks for a in task.annotations]
            if found == [LABELS[1], LABELS[3]]:
                break
            page.wait_for_timeout(200)
        assert found == [LABELS[1], LABELS[3]]
        page.reload()  # resumes where it was
        page.locator("#stage[data-card]").wait_for()
        counts(page, "2 answered · 1 left")
        page.context.close()
