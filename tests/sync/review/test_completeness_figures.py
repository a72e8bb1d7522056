"""How many objects are found: from the test split to the figures of a round, its status and its export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.instances import Instances
from sync.exchange.export import export_project
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.promise_text import promise_lines
from sync.rounds.round_records import trained_round
from sync.rounds.task_queries import test_split as split_of
from tests.sync.conftest import World
from tests.sync.steps import step
from tests.sync.tiny_learner import TinyPredictor

MakeWorld = Callable[..., World]
OPTIONS: dict[str, Any] = {"policy": "certified", "test_fraction": 0.5}


def _reviewed(world: World) -> dict[str, Any]:
    """The figures of the review after a whole round."""
    for _ in range(20):
        report = world.worker().look(world.project_id)
        assert report is not None
        assert report.error == ""
        if report.review is not None and report.review.done:
            return _figures(world)
        world.answer_all()
    raise AssertionError("the review never ended")


def _figures(world: World) -> dict[str, Any]:
    record = step(trained_round, world.open())
    assert record is not None
    found: dict[str, Any] = record.figures["review"]
    return found


def test_status_and_export_say_how_many_objects_are_found(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(40, promise_found=0.9, **OPTIONS)
    world.label(*range(24))
    found = _reviewed(world)["found"]
    assert (found["pictures"], found["objects"], found["share"]) == (12, 36, 1.0)
    # the exact bound of twelve equal pictures is .05 ** (1 / 12) = .78; sixteen others are few
    assert 0.6 < found["lower"] < 0.78
    assert {row["label"] for row in found["labels"]} == {"disc", "bar"}
    assert sum(row["objects"] for row in found["labels"]) == 36
    # 16 pictures of three objects, of which .9 - lower are to be drawn at 80 s
    minutes = (0.9 - found["lower"]) * 16 * 3 * 80 / 60
    assert found["drawing_minutes"] == pytest.approx(minutes, abs=0.06)
    shown = f"{int(found['lower'] * 100)}%"
    wanted = [
        f"at least {shown} of the objects are found (from 12 fully drawn pictures, 95% sure)",
        f"promised 90% found, shown {shown}: another {round(minutes)} minutes of drawing are expected",
    ]
    lines = status_lines(status(world.settings, world.store))
    done = step(export_project, world.open(), tmp_path / "masks.json")
    info = json.loads((tmp_path / "masks.json").read_text())["info"]
    assert info["found"] == found
    assert info["says"] == list(done.says)
    for text in wanted:
        assert any(text in line for line in lines)
        assert any(text in line for line in done.says)


def test_objects_that_the_model_misses_lower_the_bound(make_world: MakeWorld) -> None:
    world = make_world(40, **OPTIONS)
    world.label(*range(24))
    before = _reviewed(world)["found"]
    task = min(split_of(world.open().db, 1))
    annotation = world.studio.task(task).annotations[0]
    here = world.scenes[world.tasks.index(task)].result()
    other = world.scenes[(world.tasks.index(task) + 1) % 40].result()
    world.studio.update_annotation(annotation.id, here + [{**row, "id": f"o{row['id']}"} for row in other])
    report = world.worker().look(world.project_id)
    assert report is not None
    after = _figures(world)["found"]
    assert after["objects"] == before["objects"] + 3
    assert after["share"] < before["share"]
    assert after["lower"] < before["lower"]
    assert after["promised"] is None
    assert not any("promised" in line for line in promise_lines({"found": after}))


def test_labels_without_any_mask_count_as_missed(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TinyPredictor._one

    def only_discs(self: TinyPredictor, image: Any) -> Instances:
        found = plain(self, image)
        return found.take(np.flatnonzero(found.label == 0))

    monkeypatch.setattr(TinyPredictor, "_one", only_discs)
    world = make_world(40, **OPTIONS)
    world.label(*range(24))
    found = _reviewed(world)["found"]
    rows = {row["label"]: row for row in found["labels"]}
    assert rows["bar"]["share"] == rows["bar"]["lower"] == 0.0
    assert found["objects"] == 36
    assert found["share"] == pytest.approx(rows["disc"]["objects"] / 36, abs=1e-4)


def test_nothing_is_said_where_nothing_can_be(make_world: MakeWorld) -> None:
    world = make_world(20, name="paper", policy="original")
    world.label(*range(6))
    figures = _reviewed(world)
    assert figures["found"] is None
    assert not any("found" in line for line in promise_lines(figures))


def test_open_masks_above_the_cut_count_as_lost(make_world: MakeWorld) -> None:
    """While the review has only begun, next to nothing is delivered."""
    world = make_world(40, question_batch=4, **OPTIONS)
    world.label(*range(24))
    world.worker().look(world.project_id)
    assert _figures(world)["found"]["lower"] < 0.1


PROMISE = {
    "purity": 0.85,
    "delta": 0.05,
    "certificate": 2,
    "accepted_unseen": 900,
    "verified": 3,
    "holds": True,
}


@pytest.mark.parametrize(
    ("figures", "lines"),
    [
        ({}, []),
        ({"promise": None, "found": None, "forecast": None, "labels": []}, []),
        (
            {"promise": PROMISE},
            ["at least 85% of the 900 masks nobody looked at are right (certificate 2, 95% sure)"],
        ),
        (
            {"promise": {**PROMISE, "holds": None, "accepted_unseen": 0, "purity": 0.975}},
            ["no mask is accepted without a look at it (no certificate yet; promised: 97.5%)"],
        ),
        (
            {"promise": {**PROMISE, "holds": False}},
            ["no mask is accepted without a look at it (the audit took the certificate back; promised: 85%)"],
        ),
        (
            {"forecast": {"questions": 40, "minutes": 10.2, "masks": 30, "drawing_minutes": 120.0}},
            ["another 10 minutes of answers are expected to finish 30 masks, drawing them takes 2.0 hours"],
        ),
    ],
)
def test_promises_in_words(figures: dict[str, Any], lines: list[str]) -> None:
    assert promise_lines(figures) == lines


def test_a_bound_is_never_rounded_up() -> None:
    found = {"lower": 0.8999, "pictures": 18, "objects": 90, "delta": 0.05, "labels": [], "promised": 0.9}
    first, gap = promise_lines({"found": {**found, "drawing_minutes": 0.2}})
    assert first == "at least 89% of the objects are found (from 18 fully drawn pictures, 95% sure)"
    assert gap.startswith("promised 90% found, shown 89%: another 1 minute of drawing")
