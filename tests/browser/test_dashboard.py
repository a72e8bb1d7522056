"""The dashboard on a real Label Studio, in a real browser: a round that is watched, buttons, a phone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS
from sync.rounds.progress import Progress
from sync.store.tables import ProjectRecord
from sync.studio.client import Studio
from tests.browser.dashboard_place import confirm, opened, served, shown_world, sign_in, train_here
from tests.browser.review_screen import DESKTOP, PHONE
from tests.browser.shots import shot
from tests.conftest import LOGIN
from tests.sync import tiny_learner
from tests.sync.conftest import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.studio, pytest.mark.browser, pytest.mark.slow]


@dataclass
class Training:
    """Trains in this process, and stays half way until it may go on."""

    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        while not self.may_go_on.wait(0.1):
            progress.report("train", 0.5, "half way")
            progress.at("train.progress")
        return train_here(progress, learner, spec, folder)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    made = Training()
    made.may_go_on.set()
    monkeypatch.setattr("sync.rounds.train._train_in_child", made)
    return made


@pytest.fixture
def world(studio: Studio, tmp_path: Path, training: Training) -> Iterator[World]:
    """Six pictures drawn, one round shown, its questions open."""
    options = {"policy": "verify-all", "question_batch": 12, "test_min": 2}
    with shown_world(studio, tmp_path / "world", pictures=18, finished=6, **options) as made:
        yield made


def wait_for_text(page: Page, part: str, world: World, text: str) -> None:
    page.locator(f"#{part}-{world.project_id}", has_text=text).wait_for()


def record(world: World) -> ProjectRecord:
    with world.store.read() as session:
        return session.get_one(ProjectRecord, world.project_id)


def test_a_round_is_watched_from_the_button_to_its_version(
    world: World, studio: Studio, browser: Browser, training: Training
) -> None:
    errors: list[str] = []
    with served(world) as url:
        page = opened(browser, errors, DESKTOP)
        page.goto(f"{url}/dashboard")
        page.get_by_label("E-mail").fill(LOGIN.email)
        page.get_by_label("Password").fill("a wrong password")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("wrong e-mail or password").wait_for()
        shot(page, "dashboard-sign-in")
        sign_in(page, url)
        page.get_by_role("link", name="Shapes").click()
        page.wait_for_url(f"{url}/dashboard/{world.project_id}")  # its buttons are heard by now
        wait_for_text(page, "live", world, "Waiting for answers")
        page.evaluate("window.stillHere = true")

        # a round: asked for with the button, watched step by step, never a reload
        page.get_by_role("button", name="Start a round").click()
        page.get_by_role("button", name="Cancel").click()
        assert record(world).round_wanted is None
        confirm(page, "Start a round", "The worker trains on everything finished so far")
        page.get_by_text("The worker starts a round at its next look").wait_for()
        assert record(world).round_wanted is not None
        curve = page.locator(f"#curve-{world.project_id} details.meaning")
        curve.locator("summary").click()
        training.may_go_on.clear()
        world.label(6, 7)
        look = threading.Thread(target=world.worker().look, args=(world.project_id,))
        look.start()
        page.locator("[data-step=train].now").wait_for()
        page.get_by_text("half way").wait_for()
        page.locator("[data-live=left]", has_text="s left").wait_for()
        page.wait_for_function("document.querySelector('[data-live=share]').value === 0.5")
        shot(page, "dashboard-live")
        training.may_go_on.set()
        look.join()
        page.locator(f"#versions-{world.project_id} tbody tr").nth(1).wait_for()
        page.get_by_role("heading", name="Round 2").wait_for()
        page.locator("[data-step=train].done").wait_for()
        wait_for_text(page, "tiles", world, "8")
        assert page.evaluate("window.stillHere")
        assert curve.get_attribute("open") is not None, "what was open stays open"

        # a pause and its end
        confirm(page, "Pause asking", "No new questions are asked until you resume")
        page.get_by_role("button", name="Resume").wait_for()
        assert record(world).paused == "asking"
        confirm(page, "Resume", "The worker goes on where it stopped")
        page.get_by_role("button", name="Pause asking").wait_for()
        assert record(world).paused == ""

        # the first version serves again, in Label Studio too
        first, second = (v.version for v in ModelRegistry(world.settings.data_dir).versions(world.project_id))
        confirm(page, "let it serve", f"its predictions replace those of {second}")
        page.get_by_text(f"{first} is to serve again").wait_for()
        world.worker().look(world.project_id)
        page.get_by_text(f"a copy of {first}").wait_for()
        page.locator("tr.serving", has_text=f"a copy of {first}").wait_for()
        serving = page.locator("tr.serving code").inner_text()
        assert studio.project(world.project_id).model_version.startswith(serving)
        assert serving not in (first, second)
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{url}/login")
    assert errors == []


def test_it_is_usable_on_a_phone_and_says_when_the_server_is_lost(world: World, browser: Browser) -> None:
    errors: list[str] = []
    path = f"/dashboard/{world.project_id}"
    with served(world) as url:
        page = opened(browser, errors, PHONE, color_scheme="dark")
        sign_in(page, url, path)
        page.get_by_role("heading", name="Learning curve").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]
        small = page.evaluate(
            "[...document.querySelectorAll('.buttons button')]"
            ".filter(b => b.checkVisibility() && b.offsetHeight < 44).map(b => b.textContent)"
        )
        assert small == [], "too small for a thumb"
        shot(page, "dashboard-phone", full_page=True)
        page.get_by_role("button", name="Pause everything").click()
        assert "what people draw and answer is still read" in page.get_by_role("dialog").inner_text().lower()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="hidden")
        assert record(world).paused == ""
        page.get_by_role("link", name="Clusters").click()
        page.get_by_text("Clusters of Shapes").wait_for()
        page.locator("img").first.wait_for(state="attached")
        page.goto(f"{url}{path}")
    page.get_by_text("The server cannot be reached").wait_for()
    with served(world):
        page.locator("#notice").wait_for(state="hidden")
    assert [e for e in errors if "sandbox" not in e] == []
