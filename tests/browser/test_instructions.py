"""The instructions of a review project as a worker meets them, in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from werkzeug.serving import make_server

from ml_backend.app import create_app
from ml_backend.images.signed_links import crop_url
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.coco import load_coco
from sync.executor.local import LocalExecutor
from sync.lab.ground_truth import Truth
from sync.lab.sample_set import LABELS, make_sample_set
from sync.lab.simulated_people import Annotator
from sync.projects.init_project import InitReport, init_project
from sync.review.crops import make_crops
from sync.review.instructions import refresh_instructions
from sync.review.question import Question
from sync.review.review_tasks import single_task
from sync.rounds.project import OpenProject, open_project
from sync.rounds.pull import pull
from sync.rounds.task_queries import finished_tasks
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord
from sync.studio.client import Studio
from tests.browser.place import close_guide, open_stream, sign_in
from tests.browser.shots import shot
from tests.conftest import LOGIN, free_port
from tests.sync.steps import step

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]

ROWS = """() => {
    const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.top] };
    return [...document.querySelectorAll('table')]
        .filter(t => t.querySelector('img[src*="/example-"]'))
        .map(t => ({dialog: box(t.parentElement), pictures: [...t.querySelectorAll('img')].map(box)}));
}"""
"""left, right and top of every picture of each table of examples, and of what holds the table"""


@pytest.fixture
def labelled(studio: Studio, tmp_path: Path) -> Iterator[tuple[OpenProject, InitReport]]:
    """A project of drawn pictures, five of them labelled, with one question in its review project."""
    folder = make_sample_set(tmp_path / "set", n=6)
    coco = load_coco(folder / "images", folder / "annotations.json")
    port = free_port()
    settings = Settings(
        data_dir=tmp_path / "data",
        studio_url=studio.url,
        studio_token=LOGIN.token,
        backend_url=f"http://127.0.0.1:{port}",
        webhook_secret="a secret of the tests",
        open_backend=True,
    )
    server = make_server("127.0.0.1", port, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = init_project(
        studio, title="examples", labels=LABELS, images=folder / "images", settings=settings, connect=False
    )
    config = parse_label_config(studio.project(made.project_id).label_config)
    annotator = Annotator(studio, Truth(coco), config)
    for _ in range(5):
        annotator.label_next(made.project_id)
    store = Store(settings.database())
    project = open_project(settings, store, studio, made.project_id)
    step(pull, project)
    with store.write() as session:
        session.get_one(ProjectRecord, made.project_id).review_project_id = made.review_project_id
    yield project, made
    store.close()
    for project_id in (made.project_id, made.review_project_id):
        studio.delete_project(project_id)
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def _ask(project: OpenProject, review_id: int) -> None:
    task, annotation = next(iter(step(finished_tasks, project).values()))
    region = annotation.regions[0]
    asked = Question(
        key="1:q:0:0", project_id=project.id, round=1, task_id=task.id, instance="q", label=region["label"],
        item=0, cluster=0, stream=0, inclusion=1.0, form=0, repeat=0, prior=0.8, rle=region["rle"],
    )  # fmt: skip
    assert step(make_crops, project, LocalExecutor(), [asked]) == {}
    url = crop_url(project.settings, project.id, asked.instance)
    project.review_studio.import_tasks(review_id, [single_task(asked, url)])


def test_examples_of_every_class_are_seen_before_the_first_question(
    labelled: tuple[OpenProject, InitReport], studio: Studio, page: Page
) -> None:
    project, made = labelled
    assert step(refresh_instructions, project, 1)
    _ask(project, made.review_project_id)
    sign_in(page, studio.url)
    open_stream(page, studio.url, made.review_project_id)
    page.get_by_text("Labeling Instructions").wait_for()
    page.wait_for_function(
        "() => { const all = [...document.images].filter(i => i.src.includes('/example-'));"
        " return all.length >= 20 && all.every(i => i.complete && i.naturalWidth > 0) }"
    )
    rows = page.evaluate(ROWS)
    assert len(rows) == len(LABELS)
    for row in rows:
        lefts = [left for left, _, _ in row["pictures"]]
        assert lefts == sorted(lefts)
        assert len({round(top) for _, _, top in row["pictures"]}) == 1  # one row
        assert all(right - left >= 80 for left, right, _ in row["pictures"])  # large enough to see
        assert max(right for _, right, _ in row["pictures"]) <= row["dialog"][1] + 1  # nothing is cut off
    page.get_by_text("a part").last.wait_for()
    shot(page, "review-instructions")
    close_guide(page)
