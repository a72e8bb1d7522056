"""The preview on the dashboard: a real Label Studio, a real browser, a project after one round."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.learners.registry import LEARNERS
from sync.report.preview_data import make_preview
from sync.studio.client import Studio
from tests.browser.dashboard_place import opened, served, shown_world, sign_in, train_here
from tests.browser.review_screen import DESKTOP, PHONE
from tests.browser.shots import shot
from tests.sync import tiny_learner
from tests.sync.conftest import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.studio, pytest.mark.browser, pytest.mark.slow]


class Making:
    """Makes the preview, but not before somebody has seen that it is being made."""

    def __init__(self) -> None:
        self.was_seen = threading.Event()

    def __call__(self, *args: Any, **more: Any) -> Any:
        assert self.was_seen.wait(60)
        return make_preview(*args, **more)


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    made = Making()
    monkeypatch.setattr("sync.web.preview.making.make_preview", made)
    return made


@pytest.fixture
def world(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Forty-four of sixty pictures drawn, eleven of them to test on; one whole round."""
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    monkeypatch.setattr("sync.rounds.train._train_in_child", train_here)
    with shown_world(studio, tmp_path / "world", pictures=60, finished=44, early_s=0.0) as made:
        yield made


def test_a_preview_is_made_and_its_slider_moves(world: World, browser: Browser, making: Making) -> None:
    errors: list[str] = []
    path = f"/dashboard/{world.project_id}/preview"
    with served(world) as url:
        page = opened(browser, errors, DESKTOP)
        sign_in(page, url, path)
        page.get_by_role("button", name="Make the preview").click()
        page.locator("#share").wait_for()
        making.was_seen.set()
        page.locator("#sheet figure").first.wait_for(timeout=120_000)
        assert page.locator("#sheet figure").count() == 16
        assert page.locator(".slider").count() == 3
        kept = page.locator("#sheet path:visible")
        every = page.get_by_label("Smallest score of All labels")
        every.fill("0")
        whole = kept.count()
        assert whole > 10
        told = page.locator(".slider").first.locator(".told")
        assert "too few" not in told.inner_text()
        before = told.inner_text()
        every.fill("100")
        assert kept.count() < whole
        assert told.inner_text() != before
        one = page.get_by_label("Smallest score of disc", exact=True)
        one.focus()
        one.press("Home")
        assert page.locator(".slider").first.locator("output").inner_text() == "mixed"
        assert page.locator("#price tbody tr").count() == 3
        every.fill("30")
        shot(page, "preview-dashboard")
        cookies = page.context.cookies()
        phone = opened(browser, errors, PHONE)
        phone.context.add_cookies(cookies)  # type: ignore[arg-type]  # as they were read
        phone.goto(f"{url}{path}")
        phone.locator("#sheet figure").first.wait_for()
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
        slider = phone.get_by_label("Smallest score of All labels")
        slider.fill("0")
        assert phone.locator("#sheet path:visible").count() == whole
        slider.fill("100")
        assert phone.locator("#sheet path:visible").count() < whole
        shot(phone, "preview-dashboard-phone")
        phone.get_by_role("link", name="Make it anew").click()
        phone.get_by_role("link", name="Show the last one").click()
        phone.locator("#sheet figure").first.wait_for()
        page.context.close()
        phone.context.close()
    assert errors == []
