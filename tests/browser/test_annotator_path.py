"""What an annotator does all day, key by key, in a window of 1366 × 768: docs/annotators.md in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.rle import decode_rle
from sync.rounds.region_rows import read_annotation
from sync.studio.client import Studio
from tests.browser.place import DISCS, HW, Place, disc_mask, open_stream, place, regions, sign_in
from tests.browser.shots import shot
from tests.browser.test_labelling import canvas_point, iou, wait_for_annotations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]

CUT = disc_mask(*DISCS[0])
CUT[:, 118:] = False
"""a proposal that misses the right part of the first disc"""
STATE = """() => {
  const a = Htx.annotationStore.selected, tool = a.objects[0].getToolsManager().findSelectedTool();
  return {
    tool: tool?.fullName, suggestions: a.suggestions.size,
    labels: [...a.names.values()].filter(c => c.type === 'labels').flatMap(c => c.selectedValues()),
    regions: a.regionStore.regions.map(r => [r.cleanId, r.type, r.origin, ...(r.labels ?? [])]),
  }
}"""


@dataclass
class Editor:
    """The editor of one task; every action counts as one key."""

    page: Page
    keys: int = 0
    replies: list[list[dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("response", self._note)

    def _note(self, response: Any) -> None:
        if "interactive-annotating" in response.url and response.ok:
            self.replies.append((response.json().get("data") or {}).get("result") or [])

    def press(self, key: str) -> None:
        self.keys += 1
        self.page.keyboard.press(key)
        self.page.wait_for_timeout(150)

    def click(self, x: float, y: float, *held: str, answers: bool = True) -> None:
        """Click a pixel of the picture with keys held, and wait for the mask."""
        self.keys += 1
        before = len(self.replies)
        for key in held:
            self.page.keyboard.down(key)
        self.page.mouse.click(*canvas_point(self.page, x, y))
        for key in held:
            self.page.keyboard.up(key)
        self._answered(before) if answers else self.page.wait_for_timeout(600)

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.keys += 1
        before = len(self.replies)
        self.page.mouse.move(*canvas_point(self.page, x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*canvas_point(self.page, (x0 + x1) / 2, (y0 + y1) / 2))
        self.page.mouse.move(*canvas_point(self.page, x1, y1))
        self.page.mouse.up()
        self._answered(before)

    def _answered(self, before: int) -> None:
        for _ in range(200):
            if len(self.replies) > before:
                break
            self.page.wait_for_timeout(100)
        assert len(self.replies) > before, "nothing was sent"
        self.page.wait_for_timeout(300)  # the editor draws it

    def accept(self) -> None:
        self.keys += 1
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        self.page.wait_for_function("Htx.annotationStore.selected.suggestions.size === 0")
        self.page.wait_for_timeout(200)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate(STATE)
        return found


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
    page.evaluate(
        "localStorage.removeItem('labelStudio:settings');"
        "localStorage.setItem('autoAnnotation', 'true');"
        "localStorage.setItem('autoAcceptSuggestions', 'false')"
    )
    yield page
    context.close()


@pytest.fixture
def editor(window: Page, here: Place) -> Iterator[Editor]:
    open_stream(window, here.studio.url, here.made.project_id, guide=True)
    window.wait_for_function("Htx.annotationStore.selected.regionStore.regions.length >= 2")
    window.wait_for_timeout(1000)
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
        tasks = wait_for_annotations(here, here.made.project_id, len(known) + 1, editor.page)
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
    for key, tool in (("k", "KeyPointTool-dynamic"), ("r", "RectangleTool-dynamic"), ("b", "BrushTool")):
        editor.press(key)
        for number, label in (("2", "other"), ("1", "disc")):
            editor.press(number)
            assert (editor.state["tool"], editor.state["labels"]) == (tool, [label])
    shot(editor.page, "path-start")


def test_a_new_object_takes_a_click_and_a_tick_and_the_next_one_too(
    editor: Editor, here: Place, submit: Callable[[], list[dict[str, Any]]]
) -> None:
    for key in ("k", "1"):
        editor.press(key)
    editor.keys = 0
    editor.click(*DISCS[2][:2])
    editor.accept()
    assert editor.keys == 2
    assert editor.state["labels"] == ["disc"]  # it stays chosen, without a setting of the editor
    editor.press("r")
    x, y, r = DISCS[0]
    editor.drag(x - r - 4, y - r - 4, x + r + 4, y + r + 4)
    assert len(editor.replies) == 2
    assert {item["type"] for item in editor.replies[-1]} == {"brush", "labels"}
    editor.page.get_by_test_id("bottombar-reject-suggestions-button").click()
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    stored = parse_annotation(submit(), config, HW)
    assert [region.label for region in stored.regions] == ["disc"] * 3
    assert iou(decode_rle(stored.regions[2].rle), disc_mask(*DISCS[2])) > 0.9
    assert not any(dropped.broken for dropped in stored.dropped)


def test_a_wrong_class_takes_a_click_and_a_digit(editor: Editor) -> None:
    editor.press("k")
    editor.keys = 0
    editor.click(*DISCS[1][:2], answers=False)
    editor.press("2")
    assert editor.keys == 2
    assert [row[1:] for row in editor.state["regions"]] == [
        ["brushregion", "prediction", "disc"],
        ["brushregion", "prediction-changed", "other"],
    ]
    editor.press("Escape")
    assert editor.replies == []


def test_a_correction_takes_the_place_of_the_proposal(
    editor: Editor, here: Place, submit: Callable[[], list[dict[str, Any]]]
) -> None:
    before = editor.state["regions"]
    for key in ("k", "1"):
        editor.press(key)
    editor.keys = 0
    editor.click(126, 110)  # on what it misses: no mask lies there, no key is held
    shot(editor.page, "path-extended")
    editor.accept()
    assert editor.keys == 2
    after = editor.state["regions"]
    assert after == [[before[0][0], "brushregion", "manual", "disc"], before[1]]
    editor.press("Control+z")
    assert editor.state["regions"][0] == before[0]
    editor.press("Control+Shift+z")
    assert editor.state["regions"] == after
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    result = submit()
    stored = parse_annotation(result, config, HW)
    assert len(stored.regions) == 2
    assert stored.regions[0].started_from == before[0][0]
    grown = decode_rle(stored.regions[0].rle)
    assert iou(grown, disc_mask(*DISCS[0])) > 0.9 > iou(CUT, disc_mask(*DISCS[0]))
    assert read_annotation(config, result).clicks_left == 0


def test_a_mask_is_clicked_with_ctrl_and_cut_with_ctrl_and_alt(editor: Editor) -> None:
    for key in ("k", "1"):
        editor.press(key)
    editor.click(*DISCS[1][:2], answers=False)
    editor.click(*DISCS[1][:2], "Alt", answers=False)
    assert editor.replies == []  # without Ctrl a click on a mask only selects it
    editor.press("Escape")
    editor.press("1")
    editor.keys = 0
    editor.click(DISCS[1][0] + 30, DISCS[1][1], "Control", "Alt")
    assert editor.keys == 1
    (shape, _) = editor.replies[-1]
    assert shape["id"] == editor.state["regions"][1][0]
    editor.click(*DISCS[1][:2], "Control")
    editor.accept()
    assert editor.keys == 3
    assert len(editor.state["regions"]) == 2


def test_clicks_that_nobody_accepted_are_counted_and_count_no_more(
    editor: Editor, here: Place, submit: Callable[[], list[dict[str, Any]]]
) -> None:
    for key in ("k", "1"):
        editor.press(key)
    editor.click(*DISCS[2][:2])
    editor.click(20, 20, "Alt")
    # back from a draft, a point does not say any more whether it was positive
    editor.page.evaluate("Htx.annotationStore.selected.saveDraft()")
    editor.page.wait_for_timeout(1500)
    open_stream(editor.page, here.studio.url, here.made.project_id, guide=True)
    editor.page.wait_for_function("Htx.annotationStore.selected.regionStore.regions.length >= 4")
    left = [item for item in regions(editor.page) if item["type"] == "keypoint"]
    assert len(left) == 2
    assert not any("is_positive" in item for item in left)
    for key in ("k", "1"):
        editor.press(key)
    editor.click(DISCS[2][0] + 20, DISCS[2][1])  # beside the old point: a click on it selects it
    mask = editor.replies[-1][0]
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    (seen,) = parse_annotation(editor.replies[-1], config, HW).regions
    assert mask["type"] == "brush"
    assert iou(decode_rle(seen.rle), disc_mask(*DISCS[2])) > 0.9
    assert read_annotation(config, submit()).clicks_left == 3


def test_ctrl_z_takes_a_point_back_and_leaves_the_suggestion(editor: Editor) -> None:
    """The next click is answered without the point; docs/annotators.md says so."""
    for key in ("k", "1"):
        editor.press(key)
    editor.click(*DISCS[2][:2])
    editor.click(DISCS[2][0], 290)
    answers = len(editor.replies)
    editor.press("Control+z")
    assert len(editor.replies) == answers
    assert editor.state["suggestions"] == 1
    points = [item for item in regions(editor.page) if item["type"] == "keypoint"]
    assert len(points) == 1
