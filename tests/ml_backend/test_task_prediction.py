"""Which masks of a picture people see when the detector names one object twice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.verdicts import NO_VERDICTS, Verdict
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.masks.edges import EDGES
from ml_backend.masks.rle import encode_mask
from ml_backend.task_prediction import best_of_each_object, make_prediction

CONFIG = parse_label_config(build_label_config(["washer", "nut"]))
KINDS_OF = {label: CONFIG.kind_of(label) for label in CONFIG.labels}


def table(boxes: list[tuple[int, int, int, int]], scores: list[float]) -> PoolTable:
    rles = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros((40, 40), bool)
        mask[y0:y1, x0:x1] = True
        rles.append(encode_mask(mask))
    n = len(boxes)
    return PoolTable(
        key=np.array([f"t1-{i:08x}" for i in range(n)], object),
        task_id=np.ones(n, np.int64),
        label=np.array(["washer", "nut"] * n, object)[:n],
        box_xyxy=np.array(boxes, np.float32),
        counts=np.array([str(r["counts"]) for r in rles], object),
        hw=np.full((n, 2), 40, np.int32),
        score=np.array(scores, np.float32),
        quality=np.ones(n, np.float32),
        embedding=np.zeros((n, 0), np.float32),
        edges=np.zeros((n, len(EDGES)), np.float32),
    )


def accepted(key: str) -> Verdict:
    return Verdict(key, "washer", 1, False, 0, 3, 0.9, 1.0, 0.95, "original")


TWICE = [(2, 2, 20, 20), (2, 2, 20, 19), (25, 25, 38, 38)]


def test_the_better_scored_of_two_masks_of_one_object_is_shown() -> None:
    assert best_of_each_object(table(TWICE, [0.6, 0.8, 0.4]), [0, 1, 2], [None] * 3, KINDS_OF) == [1, 2]


def test_an_accepted_mask_goes_before_a_better_score_and_is_never_left_out() -> None:
    rows = table(TWICE, [0.6, 0.8, 0.4])
    assert best_of_each_object(rows, [0, 1, 2], [accepted("a"), None, None], KINDS_OF) == [0, 2]
    assert best_of_each_object(rows, [0, 1, 2], [accepted("a"), accepted("b"), None], KINDS_OF) == [0, 1, 2]


def test_touching_objects_stay_apart_and_nothing_is_no_problem() -> None:
    rows = table([(0, 0, 20, 20), (10, 0, 30, 20)], [0.5, 0.9])
    assert best_of_each_object(rows, [0, 1], [None, None], KINDS_OF) == [0, 1]
    assert best_of_each_object(rows, [], [None, None], KINDS_OF) == []


@pytest.mark.parametrize(("score", "shown"), [(math.nan, 0.0), (math.inf, 1.0), (-math.inf, 0.0), (7.0, 1.0)])
def test_the_score_of_a_prediction_is_a_number_from_0_to_1(score: float, shown: float) -> None:
    made = make_prediction(
        table(TWICE[2:], [0.9]), CONFIG, (40, 40), NO_VERDICTS, round_number=0, min_score=0.3, score=score
    )
    assert made.score == shown
    assert len(made.result) == 1


@pytest.mark.parametrize(("verdict", "shown"), [(1, 1), (-1, 0), (None, 0)])
def test_a_verdict_goes_before_the_score_in_both_directions(verdict: int | None, shown: int) -> None:
    rows = table(TWICE[2:], [0.1])
    found = (
        {} if verdict is None else {str(rows.key[0]): replace(accepted(str(rows.key[0])), verdict=verdict)}
    )
    made = make_prediction(rows, CONFIG, (40, 40), found, round_number=1, min_score=0.3, score=0.5)
    assert len(made.result) == shown
    sure = table(TWICE[2:], [0.9])
    made = make_prediction(sure, CONFIG, (40, 40), found, round_number=1, min_score=0.3, score=0.5)
    assert len(made.result) == (1 if verdict is None else shown)


@pytest.mark.parametrize(("kind", "shown"), [("segmentation", 1), ("components", 0)])
def test_a_rejected_mask_of_a_whole_class_stays_to_be_corrected(
    kind: Literal["segmentation", "components"], shown: int
) -> None:
    config = parse_label_config(build_label_config(["washer", "nut"], kind=kind))
    rows = table(TWICE[2:], [0.9])
    found = {str(key): replace(accepted(str(key)), verdict=-1) for key in rows.key}
    made = make_prediction(rows, config, (40, 40), found, round_number=1, min_score=0.3, score=0.5)
    assert len(made.result) == shown
    assert not any("meta" in item for item in made.result), "it must not pass for an accepted one"
    unsure = make_prediction(rows, config, (40, 40), found, round_number=1, min_score=0.95, score=0.5)
    assert unsure.result == []


def test_an_empty_mask_of_an_old_pool_is_not_shown_though_accepted() -> None:
    rows = table([TWICE[0], (0, 0, 0, 0)], [0.9, 0.9])
    found = {str(key): accepted(str(key)) for key in rows.key}
    made = make_prediction(rows, CONFIG, (40, 40), found, round_number=1, min_score=0.3, score=0.5)
    assert len(made.result) == 1


PILE = [(0, 0, 30, 30), (10, 4, 38, 34), (4, 10, 34, 40), (10, 2, 28, 24)]
BOXES = parse_label_config(build_label_config(["washer", "nut"], kind="boxes"))


def shown(config: LabelConfig, found: dict[str, Verdict], **options: int) -> int:
    rows = table(PILE, [0.9, 0.8, 0.7, 0.6])
    made = make_prediction(rows, config, (40, 40), found, round_number=1, min_score=0.3, score=0.5, **options)
    return len(made.result)


def test_boxes_do_not_pile_up_and_masks_may() -> None:
    assert shown(BOXES, {}) == 2
    assert shown(CONFIG, {}) == 4
    assert shown(BOXES, {}, max_tags_per_pixel=0) == 4
    assert shown(CONFIG, {}, max_tags_per_pixel=1) == 1


def test_accepted_boxes_stay_in_a_pile() -> None:
    keys = [str(key) for key in table(PILE, [0.9] * 4).key]
    assert shown(BOXES, {key: accepted(key) for key in keys[1:]}) == 3
