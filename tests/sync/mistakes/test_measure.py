"""What a judge says against one annotation, for each kind of labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.instances import Rle
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.rle import encode_mask, rle_hw
from ml_backend.masks.shapes import box_rle, boxes_of, whole_rle
from sync.mistakes.gather import _as_sure, gather
from sync.mistakes.judged import JudgedTask
from sync.mistakes.measure import BINS, Measured, measure_task
from sync.mistakes.reasons import where

HW = (60, 80)
Find = tuple[str, Rle, float]


def box(x0: float, y0: float, x1: float, y1: float) -> Rle:
    return box_rle((x0, y0, x1, y1), HW)


def table(*found: Find) -> PoolTable:
    n = len(found)
    rles = [rle for _, rle, _ in found]
    return PoolTable(
        np.array([f"k{i}" for i in range(n)], object),
        np.zeros(n, np.int64),
        np.array([label for label, _, _ in found], object),
        boxes_of(rles),
        np.array([str(rle["counts"]) for rle in rles], object),
        np.array([rle_hw(rle) for rle in rles], np.int32).reshape(n, 2),
        np.array([score for _, _, score in found], np.float32),
        np.ones(n, np.float32),
        np.zeros((n, 0), np.float32),
        np.zeros((n, 10), np.float32),
    )


def row(label: str, rle: Rle | None) -> dict[str, Any]:
    return {"id": "" if rle is None else f"of {label}", "label": label, "rle": rle}


def measured(wanted: Wanted, rows: list[dict[str, Any]], found: PoolTable) -> Measured:
    said = measure_task((wanted,), rows, found, HW, labels=wanted.labels, shown_from=0.3)
    assert Measured.from_json(said.as_json()) == said
    return said


@pytest.mark.parametrize("kind", ["boxes", "instances"])
def test_objects_and_boxes(kind: Any) -> None:
    found = table(
        ("cat", box(0, 0, 20, 20), 0.9), ("cat", box(50, 30, 70, 50), 0.8), ("dog", box(30, 0, 50, 20), 0.7)
    )
    rows = [row("cat", box(1, 0, 20, 20)), row("cat", box(31, 0, 50, 20)), row("dog", box(0, 40, 10, 50))]
    said = measured(Wanted(kind, ("cat", "dog")), rows, found)
    assert [(raw.kind, raw.label, raw.other) for raw in said.raw] == [
        ("nothing", "dog", ""),
        ("overlooked", "cat", ""),
        ("swapped", "cat", "dog"),
    ]
    assert said.drawn == {"cat": 2, "dog": 1}
    assert sum(said.agreed["cat"]) == 1
    assert said.raw[1].box == (50, 30, 70, 50)


def test_objects_that_are_not_found_leave_room_for_those_that_were_overlooked() -> None:
    hw = (600, 600)
    places = [(x, y, x + 8, y + 8) for y in range(0, 600, 20) for x in range(0, 600, 20)]
    rows = [row("cat", box_rle(place, hw)) for place in places[:700]]
    found = table(*(("cat", box_rle(place, hw), 0.6) for place in places[700:]))
    said = measure_task(
        (Wanted("boxes", ("cat",)),), rows, found, hw, labels=("cat",), shown_from=0.3
    )  # a model that knows another part of the picture than the person
    count = Counter(raw.kind for raw in said.raw)
    assert count == {"nothing": 200, "overlooked": 200}
    strengths = [raw.strength for raw in said.raw]
    assert strengths == sorted(strengths, reverse=True)


def test_a_find_beside_many_false_ones_says_less() -> None:
    config = parse_label_config(build_label_config(["cat"], kind="boxes"))
    wanted = config.wanted[0]
    judged = {}
    for task in range(30):
        rows = [row("cat", box(x, 0, x + 8, 8)) for x in range(0, 60, 10)]
        seen = [("cat", box(x, 0, x + 8, 8), 0.9) for x in range(0, 60, 10)]
        stray = [("cat", box(x, 20, x + 8, 30), 0.8) for x in range(0, {0: 80, 1: 10}.get(task, 0), 10)]
        judged[task] = JudgedTask("d", "m", measured(wanted, rows, table(*seen, *stray)))
    (finding,) = gather(config, judged)
    assert (finding.task_id, finding.kind) == (1, "overlooked")


def test_as_sure_counts_agreeing_and_stray_finds() -> None:
    agreed = np.zeros((2, BINS))
    agreed[0, -1], agreed[0, BINS // 2], agreed[1, 1] = 3, 2, 7
    strength, label = np.array([0.9, 0.5, 0.5, 0.6]), np.array([0, 0, 0, 1])
    assert _as_sure(agreed, strength, label).tolist() == [[4, 8, 8, 4], [0, 1, 1, 1]]


def test_areas_are_compared_part_by_part() -> None:
    wanted = Wanted("segmentation", ("crack", "hole"))
    whole, left, right = box(0, 0, 40, 20), box(0, 0, 20, 20), box(60, 30, 80, 60)
    missing = measured(wanted, [row("crack", left)], table(("crack", left, 0.9), ("hole", right, 0.8)))
    assert [(raw.kind, raw.label, raw.box) for raw in missing.raw] == [("area", "hole", (60, 30, 80, 60))]
    assert missing.raw[0].strength == pytest.approx(0.8)
    swapped = measured(wanted, [row("crack", right)], table(("hole", right, 0.8)))
    assert {(raw.label, raw.other) for raw in swapped.raw} == {("crack", "hole"), ("hole", "hole")}
    loose = measured(wanted, [row("crack", whole)], table(("crack", left, 1.0)))
    assert [(raw.region, raw.agree) for raw in loose.raw if raw.region] == [("of crack", 0.5)]
    fine = measured(wanted, [row("crack", whole)], table(("crack", box(0, 0, 39, 20), 1.0)))
    assert fine.raw == ()
    config = parse_label_config(build_label_config(["crack", "hole"], kind="segmentation"))
    findings = gather(config, {1: JudgedTask("d", "m", missing), 2: JudgedTask("d", "m", loose)})
    assert {f.task_id: f.reason for f in findings} == {
        1: "an area of hole at the bottom right may be missing: the model is 80% sure",
        2: "the area of crack may be badly outlined: drawn and found area overlap by 50%, most of the "
        "difference is at the top",
    }
    assert all(0 < f.task_score < 1 for f in findings)


def test_classes_by_confident_learning() -> None:
    config = parse_label_config(build_label_config(["ok", "bad"], kind="classes"))
    wanted = config.wanted[0]
    judged = {}
    for task in range(10):
        truth = "ok" if task % 2 else "bad"
        given = "ok" if task in (1, 3, 5, 7, 9, 4) else "bad"
        said = measured(wanted, [row(given, None)], table((truth, whole_rle(HW), 0.9)))
        assert said.probability[truth] == pytest.approx(0.9)
        assert sum(said.probability.values()) == pytest.approx(1.0)
        judged[task] = JudgedTask("d", "m", said)
    (finding,) = gather(config, judged)
    assert (finding.task_id, finding.kind, finding.label, finding.other_label) == (4, "class", "ok", "bad")
    assert finding.reason == "ok may be bad: the model is 90% sure"
    assert np.isnan(finding.x0)
    assert finding.as_json()["box_xyxy"] is None


def test_tags_where_several_may_hold() -> None:
    config = parse_label_config(build_label_config(["sun", "rain"], kind="classes", multiple=True))
    wanted = config.wanted[0]
    judged = {}
    for task in range(8):
        truth = [label for label, there in (("sun", task % 2), ("rain", task % 4 > 1)) if there]
        given = [label for label in truth if (task, label) != (7, "rain")]
        finds = [(label, whole_rle(HW), 0.9) for label in truth]
        judged[task] = JudgedTask("d", "m", measured(wanted, [row(x, None) for x in given], table(*finds)))
    (finding,) = gather(config, judged)
    assert (finding.task_id, finding.reason) == (7, "rain may be missing: the model is 90% sure of it")


def test_a_label_that_the_judge_does_not_know_is_left_out() -> None:
    wanted = Wanted("instances", ("cat", "dog"))
    said = measure_task(
        (wanted,), [row("dog", box(0, 0, 9, 9))], table(), HW, labels=("cat",), shown_from=0.3
    )
    assert said.raw == ()
    assert said.drawn == {}


def test_where_names_the_ninth_of_the_picture() -> None:
    assert where((0, 0, 10, 10), HW) == "at the top left"
    assert where((30, 20, 50, 40), HW) == "in the middle"
    assert where((70, 25, 80, 35), HW) == "at the right"
    assert where((35, 50, 45, 60), HW) == "at the bottom"


def test_an_empty_mask_of_a_person_does_not_stop_the_others() -> None:
    empty = encode_mask(np.zeros(HW, bool))
    said = measured(Wanted("instances", ("cat",)), [row("cat", empty)], table(("cat", box(0, 0, 9, 9), 0.9)))
    assert [raw.kind for raw in said.raw] == ["nothing", "overlooked"]
