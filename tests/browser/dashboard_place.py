"""A project after a round on a real Label Studio, the backend with its pages, and an admin at a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.serving import make_server

from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import get_learner
from sync.rounds.progress import Progress
from sync.studio.client import Studio
from sync.web.app import create_web_app
from tests.conftest import LOGIN, free_port
from tests.sync.conftest import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["confirm", "opened", "served", "shown_world", "sign_in", "train_here"]


def train_here(progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
    """Trains in this process, instead of ``sync.rounds.train._train_in_child``."""
    return get_learner(learner).train(spec, folder, lambda share, text: None)


@contextmanager
def shown_world(
    studio: Studio, folder: Path, *, pictures: int, finished: int, **options: Any
) -> Iterator[World]:
    """A project of so many pictures on the real server, the first ones finished, and one round shown."""
    world = World(
        folder,
        pictures,
        studio,  # type: ignore[arg-type]  # the same calls
        studio_url=studio.url,
        studio_token=LOGIN.token,
        backend_url=f"http://127.0.0.1:{free_port()}",
        train_clicks=False,
        **options,
    )
    world.label(*range(finished))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    yield world
    numbers = [world.project_id, *world.review_projects().values()]
    world.store.close()
    for number in numbers:
        studio.delete_project(number)


@contextmanager
def served(world: World) -> Iterator[str]:
    """The backend with its pages; gives its address."""
    port = int(world.settings.backend_url.rpartition(":")[2])
    server = make_server("127.0.0.1", port, create_web_app(world.settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield world.settings.backend_url
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def opened(browser: Browser, errors: list[str], screen: dict[str, Any], **more: Any) -> Page:
    """An empty page on a screen of this kind; what goes wrong in its scripts comes into ``errors``."""
    page = browser.new_context(**screen, **more).new_page()
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: errors.append(m.text) if "Content Security" in m.text else None)
    return page


def sign_in(page: Page, url: str, path: str = "/dashboard") -> None:
    """Open a page of the dashboard and sign in on the way."""
    page.goto(f"{url}{path}")
    page.get_by_label("E-mail").fill(LOGIN.email)
    page.get_by_label("Password").fill(LOGIN.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{url}{path}")


def confirm(page: Page, button: str, says: str) -> None:
    """Press a button, read what will happen, and agree."""
    page.get_by_role("button", name=button).first.click()
    dialog = page.get_by_role("dialog")
    dialog.filter(has_text=says).wait_for()
    dialog.get_by_role("button", name=button).click()
    dialog.wait_for(state="hidden")
