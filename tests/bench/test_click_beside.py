"""The benchmark of clicks beside proposals: the shipped rule mends a cut disc in one click."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bench.click_beside import figures, play_picture
from ml_backend.clicks import start_masks
from ml_backend.clicks.serving.catalog import build_segmenter
from ml_backend.examples import Example
from ml_backend.instances import Instances
from ml_backend.masks.rle import encode_mask, rle_box
from ml_backend.settings import BackendSettings


def test_a_part_that_is_missed_and_a_new_object(tmp_path: Path) -> None:
    rows, columns = np.ogrid[:120, :200]
    discs = [(rows - 60) ** 2 + (columns - x) ** 2 <= 30**2 for x in (50, 150)]
    pixels = np.full((120, 200, 3), 60, np.uint8)
    pixels[discs[0] | discs[1]] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    cut = discs[0].copy()
    cut[:, 66:] = False
    rle = encode_mask(cut)
    sure = np.full(1, 0.9, np.float32)
    found = Instances(
        np.zeros(1, np.int64), np.array([rle_box(rle)], np.float32), [rle], sure, sure,
        np.zeros((1, 0), np.float32),
    )  # fmt: skip
    example = Example(1, tmp_path / "a.png", (0, 0), tuple(encode_mask(disc) for disc in discs))
    rules = [(start_masks.EXTEND_REACH, start_masks.MOST_LOST_HULL), (0.0, 0.0)]
    segmenter = build_segmenter("classical", BackendSettings())
    played = list(play_picture(segmenter, example, found, rules, most=2))
    assert {row.kind for row in played} == {"mend", "make"}
    lines = {(line["object"], line["reach"]): line for line in figures(played, rules, 2)}
    assert lines["mend", rules[0][0]]["extended"] == lines["mend", rules[0][0]]["n"]
    assert lines["make", rules[0][0]]["extended"] == 0
    assert lines["mend", 0.0]["extended"] == 0
    assert lines["mend", rules[0][0]]["first_iou"][1] > 0.9  # type: ignore[index]
