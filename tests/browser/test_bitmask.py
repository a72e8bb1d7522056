"""Bitmask regions in the real editor: it shows and stores the mask that was sent, with its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region, provenance_meta
from ml_backend.masks.rle import decode_rle, encode_mask, rle_box
from sync.studio.client import Studio
from sync.studio.protocol import PredictionRow
from tests.browser.editor import drawn, wait_for_annotations
from tests.browser.place import DISCS, HW, disc_mask, open_stream, place, sign_in

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.studio, pytest.mark.browser]

ALPHA = """() => Htx.annotationStore.selected.regionStore.regions.map(r => {
  const c = r.offscreenCanvasRef, d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  const on = []; for (let i = 3; i < d.length; i += 4) on.push(d[i]); return [c.width, c.height, on];
})"""


def test_the_editor_shows_and_keeps_the_mask_that_was_sent(
    studio: Studio, tmp_path: Path, page: Page
) -> None:
    masks = [disc_mask(*DISCS[0]), disc_mask(*DISCS[1])]
    masks[1][90:110, 270:290] = False  # a hole
    rles = [encode_mask(m) for m in masks]
    meta = provenance_meta("accepted with its cluster, purity 0.97", key="t1-0011aabb", cluster=7)
    with place(studio, tmp_path, title="bitmask discs", output="bitmask", images=1) as here:
        config = parse_label_config(studio.project(here.made.project_id).label_config)
        found = [Region(f"r{i}", "mask", "disc", rle, rle_box(rle), 0.9, meta) for i, rle in enumerate(rles)]
        result = to_result(found, config, HW)
        assert {item["type"] for item in result} == {"bitmask", "labels"}
        studio.import_predictions(here.made.project_id, [PredictionRow(here.tasks[0].id, result, 0.5, "v1")])
        studio.set_model_version(here.made.project_id, "v1")
        sign_in(page, studio.url)
        open_stream(page, studio.url, here.made.project_id, guide=True)
        drawn(page, 2)
        for (width, height, alpha), mask in zip(page.evaluate(ALPHA), masks, strict=True):
            assert (height, width) == HW
            np.testing.assert_array_equal(np.array(alpha).reshape(HW) > 0, mask)
        page.get_by_test_id("bottombar-submit-button").click()
        (task,) = wait_for_annotations(studio, here.made.project_id, 1, page)
        parsed = parse_annotation(task.annotations[0].result, config, HW)
        assert {dropped.reason for dropped in parsed.dropped} == {"the label of another result"}
        for region, mask in zip(parsed.regions, masks, strict=True):
            np.testing.assert_array_equal(decode_rle(region.rle), mask)
            assert region.label == "disc"
            assert region.score == pytest.approx(0.9)
            assert dict(region.provenance) == {"key": "t1-0011aabb", "cluster": 7}
            assert region.meta["text"] == ["accepted with its cluster, purity 0.97"]
