"""What a person does in the editor, key by key; every step waits until the page shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from sync.studio.client import Studio
from sync.studio.protocol import TaskRow
from tests.browser.place import HW

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = [
    "Editor",
    "auto_annotation",
    "canvas_point",
    "drawn",
    "eventually",
    "iou",
    "press_until",
    "wait_for_annotations",
]

Value = TypeVar("Value")

STATE = """() => {
  const a = Htx.annotationStore.selected, tool = a.objects[0].getToolsManager().findSelectedTool();
  return {
    tool: tool?.fullName, suggestions: a.suggestions.size,
    labels: [...a.names.values()].filter(c => c.type === 'labels').flatMap(c => c.selectedValues()),
    regions: a.regionStore.regions.map(r => [r.cleanId, r.type, r.origin, ...(r.labels ?? [])]),
  }
}"""
DRAWN = """n => {
  const a = Htx.annotationStore.selected, regions = a?.regionStore.regions ?? [];
  const box = document.querySelector('.konvajs-content')?.getBoundingClientRect();
  const now = box && [box.x, box.y, box.width, box.height].join();
  const isSteady = now && now === window.groundswellBox;
  window.groundswellBox = now;
  return isSteady && a?.objects[0]?.imageIsLoaded && regions.length >= n
    && regions.every(r => !['brushregion', 'bitmaskregion'].includes(r.type) || r.imageData || r.bbox);
}"""
"""The picture is there, stands still from one look to the next, and the masks of n regions are painted."""
TOOLS = {
    "k": "KeyPointTool-dynamic",
    "m": "KeyPointTool-dynamic",
    "r": "RectangleTool-dynamic",
    "b": "BrushTool",
}
LABELS = {"1": "disc", "2": "other"}
ANSWERED = "count => !Htx.awaitingSuggestions && Htx.annotationStore.selected.suggestions.size >= count"


def canvas_point(page: Page, x: float, y: float) -> tuple[float, float]:
    """Screen position of a pixel of the picture."""
    box = page.locator(".konvajs-content").first.bounding_box()
    assert box is not None
    scale = min(box["width"] / HW[1], box["height"] / HW[0])  # fitted, top left
    return box["x"] + x * scale, box["y"] + y * scale


def drawn(page: Page, regions: int) -> None:
    """Wait until the picture and the masks of so many regions are on screen, where they stay."""
    page.wait_for_function(DRAWN, arg=regions, polling=150)


def auto_annotation(page: Page) -> None:
    """Clicks suggest masks, and a person accepts them. Takes effect when a task is opened."""
    page.evaluate(
        "localStorage.setItem('autoAnnotation', 'true');"
        "localStorage.setItem('autoAcceptSuggestions', 'false')"
    )


def eventually(page: Page, read: Callable[[], Value], expected: Value) -> None:
    """Wait until ``read`` gives what is expected; the assertion shows what it gives instead."""
    for _ in range(300):
        if read() == expected:
            return
        page.wait_for_timeout(100)
    assert read() == expected


def press_until(page: Page, key: str, shows: str) -> None:
    """Press a key until the page shows that it was heard: keys of a task count some time after it is seen."""
    from playwright.sync_api import TimeoutError as TooSlow

    for _ in range(10):
        page.keyboard.press(key)
        try:
            page.wait_for_function(shows, timeout=3000)
        except TooSlow:
            continue
        return
    pytest.fail(f"nothing came of {key}")


def wait_for_annotations(studio: Studio, project_id: int, count: int, page: Page) -> list[TaskRow]:
    """Tasks of the project once ``count`` annotations are stored; a lost submit fails the test."""
    for _ in range(200):
        tasks = list(studio.tasks(project_id))
        if sum(len(t.annotations) for t in tasks) >= count:
            return tasks
        page.wait_for_timeout(200)
    pytest.fail(f"{count} annotations were expected in project {project_id}")


def iou(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float((a & b).sum() / (a | b).sum())


@dataclass
class Editor:
    """The editor of one task; every action counts as one key."""

    page: Page
    keys: int = 0
    replies: list[dict[str, Any]] = field(default_factory=list)
    """what the backend answered: ``model_version`` and ``result``"""

    def __post_init__(self) -> None:
        self.page.on("response", self._note)

    def _note(self, response: Any) -> None:
        if "interactive-annotating" in response.url and response.ok:
            self.replies.append(response.json().get("data") or {})

    def press(self, key: str) -> None:
        self.keys += 1
        self.page.keyboard.press(key)

    def choose(self, tool: str, label: str = "") -> None:
        """Take a tool, and a label that is not chosen yet, by their keys."""
        self.press(tool)
        self.wait("tool", TOOLS[tool])
        if label:
            self.press(label)
            self.wait("labels", [LABELS[label]])

    def wait(self, what: str, expected: Any) -> None:
        """Wait until this part of the state is as expected."""
        eventually(self.page, lambda: self.state[what], expected)

    def click(self, x: float, y: float, *held: str) -> None:
        """Click a pixel of the picture with keys held, and wait for the mask."""
        before = len(self.replies)
        self._click(x, y, *held)
        self._answered(before)

    def select(self, x: float, y: float) -> None:
        """Click a mask, and wait until it is selected."""
        self._click(x, y)
        self.page.wait_for_function("Htx.annotationStore.selected.selectedRegions.length === 1")

    def click_in_vain(self, x: float, y: float, *held: str) -> None:
        """Click where nothing is sent; long enough for something to be sent if it were."""
        self._click(x, y, *held)
        self.page.wait_for_timeout(600)

    def _click(self, x: float, y: float, *held: str) -> None:
        self.keys += 1
        for key in held:
            self.page.keyboard.down(key)
        self.page.mouse.click(*canvas_point(self.page, x, y))
        for key in held:
            self.page.keyboard.up(key)

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
        for _ in range(300):
            if len(self.replies) > before:
                break
            self.page.wait_for_timeout(100)
        assert len(self.replies) == before + 1, "nothing was sent"
        self.page.wait_for_function(ANSWERED, arg=1)
        drawn(self.page, 0)

    def accept(self) -> None:
        self.keys += 1
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        self.page.wait_for_function("Htx.annotationStore.selected.suggestions.size === 0")

    def reject(self) -> None:
        self.page.get_by_test_id("bottombar-reject-suggestions-button").click()
        self.page.wait_for_function("Htx.annotationStore.selected.suggestions.size === 0")

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate(STATE)
        return found
