"""What an annotator does all day, key by key, in a window of 1366 × 768: docs/annotators.md in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.rle import decode_rle
from sync.rounds.region_rows import read_annotation
from sync.studio.client import Studio
from tests.browser.editor import (
    LABELS,
    TOOLS,
    Editor,
    auto_annotation,
    drawn,
    eventually,
    iou,
    wait_for_annotations,
)
from tests.browser.place import DISCS, HW, Place, disc_mask, open_stream, place, regions, sign_in
from tests.browser.shots import shot

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]

CUT = disc_mask(*DISCS[0])
CUT[:, 118:] = False
"""a proposal that misses the right part of the first disc"""
POINTS_OF_DRAFT = """async () => {
  const task = await (await fetch(`/api/tasks/${Htx.task.id}`)).json();
  const points = draft => draft.result.filter(item => item.type.startsWith('keypoint')).length;
  return Math.max(0, ...task.drafts.map(points));
}"""
"""points in the draft that Label Studio has stored"""


@pytest.fixture(scope="module")
def here(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("path")
    with place(studio, folder, title="an annotator's path", images=8) as made:
        made.push_discs(
            why="About 1 of 2 masks may be wrong.", masks=(CUT, disc_mask(*DISCS[1])), with_pool=True
        )
        yield made


@pytest.fixture(scope="module")
def window(browser: Browser, here: Place) -> Iterator[Page]:
    """A signed-in window of a small laptop. Nothing is set in the editor but Auto-Annotation."""
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    page = context.new_page()
    page.set_default_timeout(120_000)
    sign_in(page, here.studio.url)
    page.evaluate("localStorage.removeItem('labelStudio:settings')")
    auto_annotation(page)
    yield page
    context.close()


@pytest.fixture
def editor(window: Page, here: Place) -> Iterator[Editor]:
    open_stream(window, here.studio.url, here.made.project_id, guide=True)
    drawn(window, 2)
    task = int(window.evaluate("Htx.task.id"))
    yield Editor(window)
    if not here.studio.task(task).annotations:  # the next test gets a task without a draft
        here.studio.create_annotation(task, [])


@pytest.fixture
def submit(editor: Editor, here: Place) -> Callable[[], list[dict[str, Any]]]:
    """Submits the task and gives what Label Studio stores of it."""

    def do() -> list[dict[str, Any]]:
        known = {a.id for t in here.tasks for a in t.annotations}
        editor.page.keyboard.press("Control+Enter")
        tasks = wait_for_annotations(here.studio, here.made.project_id, len(known) + 1, editor.page)
        (new,) = [a for t in tasks for a in t.annotations if a.id not in known]
        return [dict(item) for item in new.result]

    return do


def test_one_row_of_labels_leaves_the_window_to_the_picture(editor: Editor) -> None:
    canvas = editor.page.locator(".konvajs-content").first.bounding_box()
    bar = editor.page.get_by_test_id("bottombar-submit-button").bounding_box()
    assert canvas is not None
    assert bar is not None
    assert canvas["y"] + canvas["height"] <= bar["y"]  # nothing is hidden
    assert canvas["height"] >= 0.7 * 768
    for key in "krb":
        editor.choose(key)
        for number in "21":
            editor.press(number)
            editor.wait("labels", [LABELS[number]])
            assert editor.state["tool"] == TOOLS[key]
    shot(editor.page, "path-start")


def test_a_new_object_takes_a_click_and_a_tick_and_the_next_one_too(
    editor: Editor, here: Place, submit: Callable[[], list[dict[str, Any]]]
) -> None:
    editor.choose("k", "1")
    editor.keys = 0
    editor.click(*DISCS[2][:2])
    editor.accept()
    assert editor.keys == 2
    editor.wait("labels", ["disc"])  # it stays chosen, without a setting of the editor
    editor.choose("r")
    x, y, r = DISCS[0]
    editor.drag(x - r - 4, y - r - 4, x + r + 4, y + r + 4)
    assert len(editor.replies) == 2
    assert {item["type"] for item in editor.replies[-1]["result"]} == {"brush", "labels"}
    editor.reject()
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    stored = parse_annotation(submit(), config, HW)
    assert [region.label for region in stored.regions] == ["disc"] * 3
    assert iou(decode_rle(stored.regions[2].rle), disc_mask(*DISCS[2])) > 0.9
    assert not any(dropped.broken for dropped in stored.dropped)


def test_a_wrong_class_takes_a_click_and_a_digit(editor: Editor) -> None:
    editor.choose("k")
    editor.keys = 0
    editor.select(*DISCS[1][:2])
    editor.press("2")
    assert editor.keys == 2
    changed = [["brushregion", "prediction", "disc"], ["brushregion", "prediction-changed", "other"]]
    eventually(editor.page, lambda: [row[1:] for row in editor.state["regions"]], changed)
    editor.press("Escape")
    assert editor.replies == []


def test_a_correction_takes_the_place_of_the_proposal(
    editor: Editor, here: Place, submit: Callable[[], list[dict[str, Any]]]
) -> None:
    before = editor.state["regions"]
    editor.choose("k", "1")
    editor.keys = 0
    editor.click(126, 110)  # on what it misses: no mask lies there, no key is held
    shot(editor.page, "path-extended")
    editor.accept()
    assert editor.keys == 2
    after = [[before[0][0], "brushregion", "manual", "disc"], before[1]]
    editor.wait("regions", after)
    editor.press("Control+z")
    eventually(editor.page, lambda: editor.state["regions"][0], before[0])
    editor.press("Control+Shift+z")
    editor.wait("regions", after)
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    result = submit()
    stored = parse_annotation(result, config, HW)
    assert len(stored.regions) == 2
    assert stored.regions[0].started_from == before[0][0]
    grown = decode_rle(stored.regions[0].rle)
    assert iou(grown, disc_mask(*DISCS[0])) > 0.9 > iou(CUT, disc_mask(*DISCS[0]))
    assert read_annotation(config, result).clicks_left == 0


def test_a_mask_is_clicked_with_ctrl_and_cut_with_ctrl_and_alt(editor: Editor) -> None:
    editor.choose("k", "1")
    editor.select(*DISCS[1][:2])
    editor.click_in_vain(*DISCS[1][:2], "Alt")
    assert editor.replies == []  # without Ctrl a click on a mask only selects it
    editor.press("Escape")
    editor.page.wait_for_function("Htx.annotationStore.selected.selectedRegions.length === 0")
    editor.press("1")
    editor.wait("labels", ["disc"])
    editor.keys = 0
    editor.click(DISCS[1][0] + 30, DISCS[1][1], "Control", "Alt")
    assert editor.keys == 1
    (shape, _) = editor.replies[-1]["result"]
    assert shape["id"] == editor.state["regions"][1][0]
    editor.click(*DISCS[1][:2], "Control")
    editor.accept()
    assert editor.keys == 3
    eventually(editor.page, lambda: len(editor.state["regions"]), 2)


def test_clicks_that_nobody_accepted_are_counted_and_count_no_more(
    editor: Editor, here: Place, submit: Callable[[], list[dict[str, Any]]]
) -> None:
    editor.choose("k", "1")
    editor.click(*DISCS[2][:2])
    editor.click(20, 20, "Alt")
    # back from a draft, a point does not say any more whether it was positive
    editor.page.evaluate("Htx.annotationStore.selected.saveDraft()")
    eventually(editor.page, lambda: editor.page.evaluate(POINTS_OF_DRAFT), 2)
    open_stream(editor.page, here.studio.url, here.made.project_id, guide=True)
    drawn(editor.page, 4)
    left = [item for item in regions(editor.page) if item["type"] == "keypoint"]
    assert len(left) == 2
    assert not any("is_positive" in item for item in left)
    editor.choose("k", "1")
    editor.click(DISCS[2][0] + 20, DISCS[2][1])  # beside the old point: a click on it selects it
    mask = editor.replies[-1]["result"][0]
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    (seen,) = parse_annotation(editor.replies[-1]["result"], config, HW).regions
    assert mask["type"] == "brush"
    assert iou(decode_rle(seen.rle), disc_mask(*DISCS[2])) > 0.9
    assert read_annotation(config, submit()).clicks_left == 3


def test_ctrl_z_takes_a_point_back_and_leaves_the_suggestion(editor: Editor) -> None:
    """The next click is answered without the point; docs/annotators.md says so."""
    editor.choose("k", "1")
    editor.click(*DISCS[2][:2])
    editor.click(DISCS[2][0], 290)
    answers = len(editor.replies)
    editor.press("Control+z")
    eventually(editor.page, lambda: [item["type"] for item in regions(editor.page)].count("keypoint"), 1)
    assert len(editor.replies) == answers
    assert editor.state["suggestions"] == 1
