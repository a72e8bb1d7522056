"""Annotations of every kind: rows in the store, instances for models, results for Label Studio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.verdicts import NO_VERDICTS, Verdict
from ml_backend.errors import BadRegion
from ml_backend.instances import Instances
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.masks.rle import decode_rle
from ml_backend.masks.shapes import box_rle, whole_rle
from ml_backend.task_prediction import make_prediction, table_of
from sync.rounds.region_rows import drawn_masks, is_tagged_only, lacks_masks, region_rows, tags_of

HW = (40, 80)
BOX = {"type": "rectanglelabels", "from_name": "box", "to_name": "image", "original_width": 80,
       "original_height": 40, "id": "b"}  # fmt: skip
BOXES = parse_label_config(build_label_config(["cat", "dog"], kind="boxes"))
CLASSES = parse_label_config(build_label_config(["cat", "dog"], kind="classes"))
WEAK = parse_label_config(build_label_config(["cat", "dog"], kind="weak"))


def box(x: float, y: float, w: float, h: float, rotation: float = 0.0) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": rotation, "rectanglelabels": ["cat"]}
    return {**BOX, "value": value}


def choice(*values: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "class", "to_name": "image", "id": "c",
            "value": {"choices": list(values)}}  # fmt: skip


def test_an_upright_box_is_kept_as_drawn() -> None:
    (row,) = region_rows(BOXES, [box(10.1, 20, 30.3, 50)])
    assert row["box_xyxy"] == pytest.approx([8.08, 8.0, 32.32, 28.0])
    assert "rotated" not in row
    ((label, rle),) = drawn_masks(BOXES.wanted, [row], HW)
    assert label == "cat"
    assert decode_rle(rle).sum() == (32 - 8) * (28 - 8)


def test_a_rotated_box_is_kept_and_becomes_the_box_around_it() -> None:
    (row,) = region_rows(BOXES, [box(50, 25, 25, 25, 90)])
    assert row["rotated"] == [40.0, 10.0, 20.0, 10.0, 90]
    ((_, rle),) = drawn_masks(BOXES.wanted, [row], HW)
    rows, columns = np.nonzero(decode_rle(rle))  # turned by 90° about its top left corner
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (30, 40, 10, 30)


def test_a_class_covers_the_picture_and_a_tag_covers_nothing() -> None:
    rows = region_rows(CLASSES, [choice("dog")])
    assert rows == [{"id": "", "label": "dog", "rle": None, "box_xyxy": None}]
    assert drawn_masks(CLASSES.wanted, rows, HW) == [("dog", whole_rle(HW))]
    rows = region_rows(WEAK, [choice("dog", "cat")])
    assert tags_of(rows) == ["dog", "cat"]
    assert drawn_masks(WEAK.wanted, rows, HW) == []
    assert is_tagged_only(WEAK, rows)
    assert not is_tagged_only(CLASSES, rows)
    assert not is_tagged_only(WEAK, [*rows, {"label": "cat", "rle": box_rle((0, 0, 4, 4), HW)}])


def test_a_choice_that_the_config_no_longer_offers_is_named() -> None:
    with pytest.raises(BadRegion, match="choice 'bird' is not in the label config") as caught:
        region_rows(CLASSES, [choice("bird")])
    assert "cat, dog" in caught.value.hint


def found(labels: list[int], rles: list[Any], scores: list[float]) -> Instances:
    n = len(labels)
    return Instances(
        np.array(labels), np.array([(0.3, 0.2, 9.7, 7.9)] * n, np.float32), rles,
        np.array(scores, np.float32), np.ones(n, np.float32), np.zeros((n, 2), np.float32),
    )  # fmt: skip


def predicted(config: Any, instances: Instances, verdicts: Any = NO_VERDICTS) -> list[dict[str, Any]]:
    rows = table_of(1, instances, config.labels, HW)
    made = make_prediction(rows, config, HW, verdicts, round_number=1, min_score=0.3, score=0.5)
    assert validate_result(made.result, config, made.score) == []
    return made.result


def test_the_detectors_own_box_is_written_not_that_of_its_pixels() -> None:
    (item,) = predicted(BOXES, found([0], [box_rle((0.3, 0.2, 9.7, 7.9), HW)], [0.9]))
    assert item["value"]["x"] == pytest.approx(0.3 / 80 * 100, abs=1e-4)
    assert item["value"]["height"] == pytest.approx(7.7 / 40 * 100, abs=1e-4)


def test_a_single_choice_shows_the_best_class_and_an_accepted_one_first() -> None:
    both = found([0, 1], [whole_rle(HW)] * 2, [0.8, 0.4])
    (item,) = predicted(CLASSES, both)
    assert item["value"] == {"choices": ["cat"]}
    rows = table_of(1, both, CLASSES.labels, HW)
    verdict = Verdict(str(rows.key[1]), "dog", 1, True, 0, 1, 1.0, 1.0, 1.0, "certified")
    (item,) = predicted(CLASSES, both, {verdict.key: verdict})
    assert item["value"] == {"choices": ["dog"]}


def test_several_classes_share_one_result() -> None:
    config = parse_label_config(build_label_config(["wet", "cold"], kind="classes", multiple=True))
    (item,) = predicted(config, found([0, 1], [whole_rle(HW)] * 2, [0.8, 0.4]))
    assert item["value"] == {"choices": ["wet", "cold"]}
    assert item["score"] == pytest.approx(0.4)


def test_regions_of_two_classes_may_lie_on_each_other_in_segmentation_only() -> None:
    here = box_rle((0, 0, 20, 20), HW)
    config = parse_label_config(build_label_config(["cat", "dog"], kind="segmentation"))
    assert len(predicted(config, found([0, 1], [here, here], [0.8, 0.7]))) == 2
    config = parse_label_config(build_label_config(["cat", "dog"]))
    assert len(predicted(config, found([0, 1], [here, here], [0.8, 0.7]))) == 1


def test_a_tag_without_a_mask_says_that_not_everything_was_drawn() -> None:
    rows = region_rows(WEAK, [choice("dog", "cat")])
    drawn = {"id": "m", "label": "cat", "rle": box_rle((0, 0, 4, 4), HW), "box_xyxy": [0, 0, 4, 4]}
    assert lacks_masks(WEAK.wanted, [*rows, drawn])
    assert not lacks_masks(WEAK.wanted, [*rows, drawn, {**drawn, "label": "dog"}])
    assert not lacks_masks(CLASSES.wanted, region_rows(CLASSES, [choice("dog")]))


def test_a_box_drawn_to_the_left_has_a_width() -> None:
    (row,) = region_rows(BOXES, [box(50, 50, -25, -25)])
    assert row["box_xyxy"] == [20.0, 10.0, 40.0, 20.0]
