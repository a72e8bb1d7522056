"""A click, a negative click, and accepting, with a model of transformers behind the real editor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.rle import decode_rle
from sync.studio.client import Studio
from tests.browser.editor import Editor, auto_annotation, drawn, wait_for_annotations
from tests.browser.place import HW, Place, open_stream, place, sign_in
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
    auto_annotation(page)
    editor = Editor(page)
    open_stream(page, here.studio.url, here.made.project_id, guide=True)
    drawn(page, 0)
    editor.choose("m", "1")  # the first smart tool: points; the first label
    editor.click(*INSIDE)
    editor.click(*OUTSIDE, "Alt")
    answer = editor.replies[-1]
    assert answer["model_version"].startswith("hf:hf-sam2model-")
    editor.accept()
    page.get_by_test_id("bottombar-submit-button").click()
    tasks = wait_for_annotations(here.studio, here.made.project_id, 1, page)
    config = parse_label_config(here.studio.project(here.made.project_id).label_config)
    (stored,) = [a for t in tasks for a in t.annotations]
    (region,) = parse_annotation(stored.result, config, HW).regions
    mask = decode_rle(region.rle)
    (seen,) = parse_annotation(answer["result"], config, HW).regions
    assert (mask == decode_rle(seen.rle)).all()
    assert mask[INSIDE[1], INSIDE[0]]
    assert not mask[OUTSIDE[1], OUTSIDE[0]]
