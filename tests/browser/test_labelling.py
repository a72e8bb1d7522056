"""What an annotator and a crowd worker see and do, in a real browser on a real Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.images.signed_links import crop_url
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.rle import decode_rle
from sync.review.question import Question
from sync.review.review_project import ReviewOwner, ensure_review_project
from sync.review.review_tasks import parse_answers, sheet_task, single_task
from sync.studio.client import Studio
from sync.studio.protocol import TaskRow
from tests.browser.editor import (
    Editor,
    auto_annotation,
    canvas_point,
    drawn,
    iou,
    press_until,
    wait_for_annotations,
)
from tests.browser.place import DISCS, HW, Place, close_guide, disc_mask, open_stream, place, sign_in
from tests.browser.shots import shot

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]


@pytest.fixture
def here(studio: Studio, tmp_path: Path) -> Iterator[Place]:
    with place(studio, tmp_path, title="browser discs") as made:
        yield made


def test_a_pre_annotated_task_shows_its_masks_and_why_it_comes_and_is_submitted(
    here: Place, page: Page
) -> None:
    here.push_discs(why="About 1 of 3 masks may be wrong.")
    sign_in(page, here.studio.url)
    open_stream(page, here.studio.url, here.made.project_id, guide=True)
    drawn(page, 3)
    assert page.evaluate("Htx.annotationStore.selected.regionStore.regions.length") == 3
    shot(page, "labelling-discs")
    reason = page.locator(".groundswell-why")
    reason.get_by_text("About 1 of 3 masks may be wrong.").wait_for()
    reason.hover()
    assert not reason.get_by_role("button").first.is_visible()
    # seen, not only stored: the middle of a disc changes colour when its masks are hidden
    x, y = canvas_point(page, *DISCS[0][:2])
    clip = {"x": x - 3, "y": y - 3, "width": 6, "height": 6}
    seen = set()
    for _ in range(40):
        seen.add(page.screenshot(clip=clip))  # type: ignore[arg-type]
        page.evaluate("Htx.annotationStore.selected.regionStore.regions.forEach(r => r.toggleHidden())")
        if len(seen) > 1:
            break
        page.wait_for_timeout(250)
    assert len(seen) > 1
    hidden = "Htx.annotationStore.selected.regionStore.regions.filter(r => r.hidden)"
    page.evaluate(f"{hidden}.forEach(r => r.toggleHidden())")

    page.get_by_test_id("bottombar-submit-button").click()
    done = [t for t in wait_for_annotations(here.studio, here.made.project_id, 1, page) if t.annotations]
    assert len(done) == 1
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    parsed = parse_annotation(done[0].annotations[0].result, config, HW)
    assert len(parsed.regions) == 3
    for region, true in zip(parsed.regions, DISCS, strict=True):
        assert iou(decode_rle(region.rle), disc_mask(*true)) > 0.99


def question(here: Place, task: TaskRow, i: int, rle: dict[str, Any], form: int) -> Question:
    key = f"disc{task.id}x{i}"
    return Question(
        key=Question.make_key(1, key, 0, 0, phase=-1, certificate=0),
        project_id=here.made.project_id,
        round=1,
        task_id=task.id,
        instance=key,
        label="disc",
        item=i,
        cluster=0,
        stream=0,
        inclusion=1.0,
        form=form,
        repeat=0,
        prior=0.8,
        rle=rle,
    )


def crop_of(here: Place, task: TaskRow, q: Question) -> str:
    image = here.services.images.get(str(task.data["image"]), task_id=task.id)
    here.services.crops.ensure(here.made.project_id, q.instance, image, q.rle)
    return crop_url(here.settings, here.made.project_id, q.instance)


def loaded_pictures(page: Page, count: int) -> None:
    page.wait_for_function(
        "n => [...document.images].filter(i => i.src.includes('/crops/') && i.complete && i.naturalWidth > 0)"
        ".length >= n",
        arg=count,
    )


def test_a_review_question_is_answered_by_keyboard(here: Place, page: Page) -> None:
    rles = here.push_discs()
    task = here.tasks[0]
    asked = [question(here, task, i, rle, 0) for i, rle in enumerate(rles)]
    review = here.made.review_project_id
    here.studio.import_tasks(review, [single_task(q, crop_of(here, task, q)) for q in asked])
    sign_in(page, here.studio.url)
    open_stream(page, here.studio.url, review)
    close_guide(page)
    done: list[str] = []
    stored: list[TaskRow] = []
    for key in ("y", "n", "u"):
        page.wait_for_function("Htx.annotationStore.selected?.objects[0]?.imageIsLoaded === true")
        if key == "y":
            shot(page, "review-single")
        press_until(page, key, "Htx.annotationStore.selected.serializeAnnotation().length === 1")
        page.keyboard.press("Control+Enter")
        stored = wait_for_annotations(here.studio, review, len(done) + 1, page)
        done.append(key)
        if len(done) < len(asked):
            page.wait_for_function("Htx.annotationStore.selected?.serializeAnnotation().length === 0")
    answers = [parse_answers(t.data, a)[0] for t in stored for a in t.annotations]
    assert sorted(a.value for a in answers) == ["no", "unsure", "yes"]
    assert {a.question_key for a in answers} == {q.key for q in asked}


def test_a_contact_sheet_is_answered_by_keyboard(here: Place, page: Page) -> None:
    rles = here.push_discs()
    asked = [question(here, task, i, rle, 1) for task in here.tasks for i, rle in enumerate(rles)]
    by_id = {t.id: t for t in here.tasks}
    owner = ReviewOwner(here.studio.project(here.made.project_id).key, "browser")
    review = ensure_review_project(here.studio, owner, "browser discs", form="sheet")
    try:
        sheet = sheet_task(asked, [crop_of(here, by_id[q.task_id], q) for q in asked])
        here.studio.import_tasks(review, [sheet])
        sign_in(page, here.studio.url)
        open_stream(page, here.studio.url, review)
        close_guide(page)
        loaded_pictures(page, len(asked))
        for ticked, key in enumerate("25", 1):
            ticks = "Htx.annotationStore.selected.serializeAnnotation()[0]?.value.choices.length"
            press_until(page, key, f"{ticks} === {ticked}")
        shot(page, "review-sheet")
        page.keyboard.press("Control+Enter")
        (task,) = wait_for_annotations(here.studio, review, 1, page)
        answers = parse_answers(task.data, task.annotations[0])
        assert [a.value for a in answers] == ["yes", "no", "yes", "yes", "no", "yes"]
    finally:
        here.studio.delete_project(review)


def test_click_suggestion_negative_click_accept_submit(here: Place, page: Page) -> None:
    """Smart tool, click, suggestion, negative click, accept, submit: what is stored is what was shown."""
    sign_in(page, here.studio.url)
    auto_annotation(page)
    editor = Editor(page)
    open_stream(page, here.studio.url, here.made.project_id, guide=True)
    drawn(page, 0)
    editor.choose("m", "1")  # the first smart tool: points; the first label
    editor.click(*DISCS[1][:2])
    shot(page, "click-suggestion")
    editor.click(200, 30, "Alt")
    shown = editor.replies[-1]["result"]
    assert [item["type"] for item in shown] == ["brush", "labels"]
    editor.accept()
    page.get_by_test_id("bottombar-submit-button").click()
    tasks = wait_for_annotations(here.studio, here.made.project_id, 1, page)
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    stored = [a for t in tasks for a in t.annotations]
    assert len(stored) == 1
    parsed = parse_annotation(stored[0].result, config, HW)
    assert len(parsed.regions) == 1
    assert parsed.regions[0].label == "disc"
    mask = decode_rle(parsed.regions[0].rle)
    seen = parse_annotation(shown, config, HW).regions[0]
    assert (mask == decode_rle(seen.rle)).all()
    assert iou(mask, disc_mask(*DISCS[1])) > 0.8
