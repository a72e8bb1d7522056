"""A click, a negative click, and accepting, with a model of transformers behind the real editor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.rle import decode_rle
from sync.studio.client import Studio
from tests.browser.place import HW, Place, open_stream, place, sign_in
from tests.browser.test_labelling import canvas_point, wait_for_annotations
from tests.ml_backend.clicks.hf_folders import save

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]

INSIDE, OUTSIDE = (280, 100), (200, 30)


@pytest.fixture
def here(studio: Studio, tmp_path: Path) -> Iterator[Place]:
    torch.set_num_threads(1)
    model = save("sam2", tmp_path / "sam2")
    changes = {"segmenter": "hf", "hf_model": str(model), "device": "cpu"}
    with place(studio, tmp_path, title="clicks by hf", images=1, changes=changes) as made:
        yield made


def test_click_negative_click_accept_submit(here: Place, page: Page) -> None:
    """Weights are random, so the mask is no disc; but it holds the click, leaves out the negative one, and
    what is stored is what was shown.
    """
    sign_in(page, here.studio.url)
    page.evaluate("localStorage.setItem('autoAnnotation', 'true')")
    page.evaluate("localStorage.setItem('autoAcceptSuggestions', 'false')")
    replies: list[dict[str, Any]] = []
    page.on(
        "response",
        lambda r: replies.append(r.json()) if "interactive-annotating" in r.url and r.ok else None,
    )
    open_stream(page, here.studio.url, here.made.project_id, guide=True)
    page.wait_for_timeout(1500)
    page.keyboard.press("m")  # the first smart tool: points
    page.keyboard.press("1")  # the first label
    page.mouse.click(*canvas_point(page, *INSIDE))
    page.wait_for_function("Htx.annotationStore.selected.suggestions.size === 1")
    page.wait_for_timeout(500)
    first = len(replies)
    page.keyboard.down("Alt")
    page.mouse.click(*canvas_point(page, *OUTSIDE))
    page.keyboard.up("Alt")
    for _ in range(100):
        if len(replies) > first:
            break
        page.wait_for_timeout(100)
    assert len(replies) == first + 1, "the negative click did not reach the backend"
    page.wait_for_timeout(800)
    answer = replies[-1]["data"]
    assert answer["model_version"].startswith("hf:hf-sam2model-")
    page.get_by_text("1 suggestions").locator("xpath=following::button[2]").click()  # ✗, then ✓
    page.wait_for_function("Htx.annotationStore.selected.suggestions.size === 0")
    page.wait_for_timeout(500)
    page.get_by_test_id("bottombar-submit-button").click()
    tasks = wait_for_annotations(here, here.made.project_id, 1, page)
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    (stored,) = [a for t in tasks for a in t.annotations]
    (region,) = parse_annotation(stored.result, config, HW).regions
    mask = decode_rle(region.rle)
    (seen,) = parse_annotation(answer["result"], config, HW).regions
    assert (mask == decode_rle(seen.rle)).all()
    assert mask[INSIDE[1], INSIDE[0]]
    assert not mask[OUTSIDE[1], OUTSIDE[0]]
