"""A contact sheet as a worker meets it in Label Studio: every card in the window, ticks that can be hit."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageDraw

from ml_backend.label_studio.config_builder import build_sheet_config
from ml_backend.masks.rle import Rle, encode_mask
from sync.review.question import Question
from sync.review.review_tasks import parse_answers, read_questions, sheet_task
from sync.studio.client import Studio
from tests.browser.editor import press_until, wait_for_annotations
from tests.browser.place import disc_mask, open_stream, sign_in
from tests.browser.shots import shot

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]

CARDS = """() => [...document.querySelectorAll('.groundswell-sheet img')].map(i => {
    const b = i.getBoundingClientRect();
    return {left: b.left, right: b.right, top: b.top, bottom: b.bottom};
})"""
TICKS = """() => [...document.querySelectorAll('.groundswell-sheet input[type=checkbox]')].map(i => {
    const b = (i.parentElement || i).getBoundingClientRect();
    return {left: b.left, top: b.top, width: b.width, height: b.height, on: i.checked};
})"""


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[str]:
    """Address of a folder of crops; the numbers on them are those of the cards."""
    for number in range(24):
        image = Image.new("RGB", (448, 360 if number % 2 else 448), (60, 110, 70))
        draw = ImageDraw.Draw(image)
        draw.ellipse((100, 100, 300, 300), outline=(255, 230, 60), width=6)
        draw.text((190, 190), str(number + 1), fill="white")
        image.save(tmp_path / f"{number}.png")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def _questions(count: int, labels: tuple[str, ...]) -> list[Question]:
    rle: Rle = encode_mask(disc_mask(100, 110, 42))
    return [
        Question(
            key=f"1:t{i}:0:0", project_id=1, round=1, task_id=i, instance=f"t{i}",
            label=labels[i % len(labels)], item=i, cluster=0, stream=0, inclusion=1.0, form=1, repeat=0,
            prior=0.8, rle=rle,
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "labels"), [(9, ("disc",)), (24, ("disc", "a rather long name"))])
def test_every_card_is_in_the_window_of_a_laptop(
    studio: Studio, page: Page, pictures: str, count: int, labels: tuple[str, ...]
) -> None:
    page.set_viewport_size({"width": 1366, "height": 768})
    project = studio.create_project(f"sheet of {count}", build_sheet_config())
    questions = sorted(_questions(count, labels), key=lambda question: question.label)
    (task,) = studio.import_tasks(
        project.id, [sheet_task(questions, [f"{pictures}/{i}.png" for i in range(count)])]
    )
    sign_in(page, studio.url)
    open_stream(page, studio.url, project.id)
    page.wait_for_function(
        f"() => {{ const all = [...document.querySelectorAll('.groundswell-sheet img')];"
        f" return all.length === {count} && all.every(i => i.complete && i.naturalWidth > 0) }}"
    )
    shot(page, f"sheet-{count}")
    submit = page.get_by_test_id("bottombar-submit-button").bounding_box()
    assert submit is not None
    for card in page.evaluate(CARDS):
        assert card["left"] >= 0
        assert card["right"] <= 1366
        assert card["bottom"] <= submit["y"]
    for tick in page.evaluate(TICKS):
        assert min(tick["width"], tick["height"]) >= 24
    ticks = "Htx.annotationStore.selected.serializeAnnotation()[0]?.value.choices.length"
    page.locator(".groundswell-sheet img").nth(1).click()
    page.wait_for_function(f"{ticks} === 1")
    press_until(page, "3", f"{ticks} === 2")
    page.get_by_test_id("bottombar-submit-button").click()
    (row,) = wait_for_annotations(studio, project.id, 1, page)
    assert row.id == task
    asked = read_questions(row.data)[1]
    said = {answer.question_key: answer.value for answer in parse_answers(row.data, row.annotations[0])}
    assert [said[question.key] for question in asked] == ["yes", "no", "no", *["yes"] * (count - 3)]
    studio.delete_project(project.id)
