"""A project on the real server with our own backend behind it, and what a person does in the editor."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from werkzeug.serving import make_server

from ml_backend.app import create_app
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.artifacts.pool_writer import write_pool
from ml_backend.instances import Instances, Rle
from ml_backend.label_studio.label_config import Output, parse_label_config
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.why_line import why_items
from ml_backend.masks.rle import encode_mask, rle_box
from ml_backend.services import Services
from sync.projects.init_project import InitReport, init_project
from sync.settings import Settings
from sync.studio.client import Studio
from sync.studio.protocol import PredictionRow, TaskRow
from tests.conftest import LOGIN, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

HW = (300, 400)
DISCS = ((100, 110, 42), (280, 100, 50), (200, 220, 46))
"""centre x, centre y, radius of the true objects, pixels"""


def disc_mask(x: int, y: int, r: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    rows, columns = np.ogrid[: HW[0], : HW[1]]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= r * r)


def picture(seed: int = 0) -> bytes:
    """Three red discs on a green ground with a little noise, as PNG."""
    image = Image.new("RGB", (HW[1], HW[0]), (60, 110, 70))
    draw = ImageDraw.Draw(image)
    for x, y, r in DISCS:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(200, 60, 50))
    noise = np.random.default_rng(seed).normal(0, 6, (*HW, 3))
    pixels = np.clip(np.asarray(image, np.float64) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Place:
    """Everything a test needs of the running system."""

    studio: Studio
    settings: Settings
    services: Services
    made: InitReport

    @property
    def tasks(self) -> list[TaskRow]:
        return sorted(self.studio.tasks(self.made.project_id), key=lambda t: t.id)

    def push_discs(
        self,
        version: str = "discs-v1",
        *,
        why: str = "",
        masks: Sequence[np.ndarray[Any, np.dtype[np.bool_]]] = (),
        with_pool: bool = False,
    ) -> list[Rle]:
        """Predictions of the true discs (or of ``masks``) for every task, made the shown version.

        ``why`` is the line that tells why the task comes now. ``with_pool``: the backend knows them too, as
        after a round, and clicks start from them.
        """
        rles = [encode_mask(mask) for mask in masks or [disc_mask(*disc) for disc in DISCS]]
        boxes = np.array([rle_box(rle) for rle in rles], np.float32)
        n = len(rles)
        found = Instances(
            np.zeros(n, np.int64),
            boxes,
            rles,
            np.full(n, 0.9, np.float32),
            np.full(n, 0.9, np.float32),
            np.zeros((n, 0), np.float32),
        )
        config = parse_label_config(self.studio.project(self.made.project_id).label_config)
        tasks = self.tasks
        rows = []
        for task in tasks:
            keys = [instance_key(task.id, "disc", str(rle["counts"])) for rle in rles]
            result = to_result(found, config, HW, keys=keys) + why_items(config.xml, why)
            rows.append(PredictionRow(task.id, result, 0.5, version))
        if with_pool:
            folder = ProjectPaths(self.settings.data_dir, self.made.project_id)
            pool = [(task.id, found, {"hw": HW}) for task in tasks]
            write_pool(folder.pool(version), config.labels, pool, embedding_dim=0)
            ModelRegistry(self.settings.data_dir).publish(
                self.made.project_id, version, lambda folder: {"labels": list(config.labels)}
            )
        self.studio.import_predictions(self.made.project_id, rows)
        self.studio.set_model_version(self.made.project_id, version)
        return rles


@contextmanager
def place(
    studio: Studio,
    folder: Path,
    *,
    title: str,
    output: Output = "brush",
    images: int = 2,
    changes: Mapping[str, Any] | None = None,
) -> Iterator[Place]:
    """A project of generated pictures on ``studio``, our backend served on a free port. ``changes`` are
    settings.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for i in range(images):
        (pictures / f"p{i}.png").write_bytes(picture(i))
    port = free_port()
    settings = Settings(
        data_dir=folder / "data",
        studio_url=studio.url,
        studio_token=LOGIN.token,
        backend_url=f"http://127.0.0.1:{port}",
        webhook_secret="a secret of the tests",
        open_backend=True,
        **(changes or {}),
    )
    services = Services.from_settings(settings)
    server = make_server("127.0.0.1", port, create_app(services=services), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = None
    try:
        made = init_project(
            studio, title=title, labels=["disc", "other"], images=pictures, settings=settings, output=output
        )
        yield Place(studio, settings, services, made)
    finally:
        if made is not None:
            studio.delete_project(made.project_id)
            studio.delete_project(made.review_project_id)
        server.shutdown()
        thread.join(timeout=10)


def sign_in(page: Page, url: str) -> None:
    """Sign in as the administrator, with the editor set so that a label stays selected between clicks."""
    page.goto(f"{url}/user/login/", wait_until="domcontentloaded")
    page.fill("input[name=email]", LOGIN.email)
    page.fill("input[name=password]", LOGIN.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda address: "/user/login" not in address, wait_until="domcontentloaded")
    page.evaluate("localStorage.setItem('labelStudio:settings', JSON.stringify({continuousLabeling: true}))")


def open_stream(page: Page, url: str, project_id: int, *, guide: bool = False) -> None:
    """Open the label stream of a project and wait for the first task.

    ``guide``: the instructions stand in front of it, as they should, and a person closes them.
    """
    page.goto(f"{url}/projects/{project_id}/data?labeling=1", wait_until="domcontentloaded")
    page.get_by_test_id("bottombar-submit-button").wait_for()
    page.wait_for_function("window.Htx?.annotationStore?.selected != null")
    if guide:
        close_guide(page)


def close_guide(page: Page) -> None:
    """Close the instructions with Escape."""
    from playwright.sync_api import TimeoutError as TooSlow

    guide = page.get_by_text("Labeling Instructions")
    guide.wait_for()
    for _ in range(10):  # it is seen before it hears keys
        page.keyboard.press("Escape")
        try:
            guide.wait_for(state="hidden", timeout=3000)
        except TooSlow:
            continue
        return
    pytest.fail("the instructions do not close")


def regions(page: Page) -> list[dict[str, Any]]:
    """Regions of the annotation on screen, as the editor would submit them."""
    found: list[dict[str, Any]] = page.evaluate(
        "Htx.annotationStore.selected.serializeAnnotation().map(r => JSON.parse(JSON.stringify(r)))"
    )
    return found
