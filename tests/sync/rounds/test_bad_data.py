"""Bad data in projects of every kind, with the learners that ship: named, left out, and the round goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from ml_backend.kinds.base import Kind
from ml_backend.kinds.registry import KINDS
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_writer import to_result
from ml_backend.masks.coco import CocoImage, CocoSet
from ml_backend.masks.rle import encode_mask
from sync.lab.ground_truth import Truth
from sync.report.status_figures import project_status
from sync.rounds.round_records import load_snapshot
from sync.store.tables import AnnotationRecord, ProjectRecord
from sync.worker.look import LookReport
from tests.sync.conftest import HW, LABELS, World

MakeWorld = Callable[..., World]
SMALL: dict[str, dict[str, Any]] = {
    "boxes": {"iterations": 2, "size": 64, "batch": 2, "channels": 8},
    "segmentation": {"iterations": 2, "size": 64, "batch": 2},
    "components": {"iterations": 2, "size": 64, "batch": 2},
    "classes": {},
    "weak": {"iterations": 3, "most": 30, "refine_iterations": 2, "refine_size": 64},
}
N, LABELLED = 9, 6
TRUNCATED, BEYOND, UNKNOWN, TRUNCATED_OPEN = 1, 2, 3, 8


def _config(kind: Kind) -> str:
    return build_label_config(LABELS, kind=kind, multiple=kind == "classes")


def _result(world: World, kind: Kind, number: int) -> list[dict[str, Any]]:
    """What a careful person would submit for picture ``number``."""
    config = parse_label_config(_config(kind))
    drawn = [(LABELS.index(label), encode_mask(mask)) for label, mask in world.scenes[number].masks]
    path = world.images / f"{number:03d}.png"
    picture = CocoImage(
        1, path, HW, tuple(n for n, _ in drawn), tuple(r for _, r in drawn), (False,) * len(drawn)
    )
    truth = Truth(CocoSet(LABELS, (picture,)), KINDS[kind])
    tags = config.targets[0].tags
    if tags is None:
        return to_result(truth.regions(path.name), config, HW)
    value = {"choices": truth.tags(path.name)}
    return [{"from_name": tags.name, "to_name": tags.to_name, "type": "choices", "value": value}]


def _spoilt(result: list[dict[str, Any]], kind: Kind, number: int) -> list[dict[str, Any]]:
    """The same with what nobody could have meant."""
    first = {**result[0], "value": dict(result[0]["value"])}
    name = next(name for name in first["value"] if name.endswith(("labels", "choices")))
    if number == UNKNOWN:
        first["value"][name] = ["no such label"]
    elif KINDS[kind].unit == "box":
        first["value"] |= {"x": 150.0, "y": 20.0}
    elif name == "choices":
        first["value"][name] = []
    else:
        first["value"]["rle"] = [0, 0, 4, 1]  # cut off in the middle
    return [first, *result[1:]]


def _look(world: World, **how: Any) -> LookReport:
    report = world.worker().look(world.project_id, **how)
    assert report is not None
    return report


def _asked(world: World) -> int:
    return sum(len(list(world.studio.tasks(review))) for review in world.review_projects().values())


def _reasons(world: World) -> dict[int, str]:
    with world.store.read() as session:
        shown = project_status(world.settings, session, session.get_one(ProjectRecord, world.project_id))
    return {world.tasks.index(row["task"]): row["reason"] for row in shown["broken"]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SMALL))
def test_bad_items_are_named_and_the_round_goes_on(make_world: MakeWorld, kind: Kind) -> None:
    world = make_world(
        N,
        config=_config(kind),
        learner="auto",
        learner_options=SMALL[kind],
        test_min=1,
        min_finished=3,
        early_s=0,
        pool_min_score=0.0,
    )
    for number in (TRUNCATED, TRUNCATED_OPEN):
        path = world.images / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:150])
    for number in range(LABELLED):
        result = _result(world, kind, number)
        if number in (BEYOND, UNKNOWN):
            result = _spoilt(result, kind, number)
        world.studio.create_annotation(world.tasks[number], result)
    report = _look(world)
    assert report.error == ""
    assert report.trained, "a model came of what was left"
    reasons = _reasons(world)
    assert (
        {TRUNCATED, TRUNCATED_OPEN, UNKNOWN} <= set(reasons) <= {TRUNCATED, TRUNCATED_OPEN, UNKNOWN, BEYOND}
    )
    assert "no such label" in reasons[UNKNOWN]
    snapshot = load_snapshot(world.open().paths, 1)
    used = {world.tasks.index(row["task"]) for row in (*snapshot["train"], *snapshot["test"])}
    assert used == set(range(LABELLED)) - set(reasons) | {TRUNCATED}, (
        "its picture is read by the training only"
    )
    with world.store.read() as session:
        kept = session.scalar(select(func.count()).select_from(AnnotationRecord))
    assert kept == LABELLED, "no annotation is lost"
    served = [world.tasks[n] for n in range(LABELLED, N) if n != TRUNCATED_OPEN]
    assert report.pushed is not None
    for task in served:
        assert len(world.studio.predictions(task)) == 1, "open tasks with a picture have a prediction"
    assert _look(world).error == ""

    # somebody mends what was named: the next round uses it
    for number in (BEYOND, UNKNOWN):
        (row,) = world.studio.task(world.tasks[number]).annotations
        world.studio.update_annotation(row.id, _result(world, kind, number))
    assert _look(world).error == ""
    assert set(_reasons(world)) == {TRUNCATED, TRUNCATED_OPEN}


@pytest.mark.slow
def test_a_kind_changed_by_an_edit_of_the_config_begins_anew(make_world: MakeWorld) -> None:
    world = make_world(N, config=_config("classes"), learner="auto", test_min=1)
    for number in range(LABELLED):
        world.studio.create_annotation(world.tasks[number], _result(world, "classes", number))
    assert _look(world).error == ""
    first = load_snapshot(world.open().paths, 1)
    assert first["learner"] == "classifier"
    asked = _asked(world)
    assert asked > 0
    world.studio._db["projects"][str(world.project_id)]["label_config"] = _config("boxes")
    for _ in range(2):
        report = _look(world)
        assert (report.error, report.trained) == ("", ""), "nobody drew a box yet"
    assert set(_reasons(world)) == set(range(LABELLED)), "what was picked is no box, and it is said"
    shown = [row for task in world.tasks for row in world.studio.predictions(task)]
    assert not any(row.result for row in shown), "a class that covers the picture is no box"
    world.answer_all()
    assert _look(world).error == ""
    assert _asked(world) == asked, "nor is more asked about it"
    with world.store.write() as session:
        session.get_one(ProjectRecord, world.project_id).options = {"learner_options": SMALL["boxes"]}
    for number in range(LABELLED):
        (row,) = world.studio.task(world.tasks[number]).annotations
        world.studio.update_annotation(row.id, _result(world, "boxes", number))
    report = _look(world)
    assert report.error == ""
    second = load_snapshot(world.open().paths, 2)
    assert (second["learner"], second["start"]) == ("fasterrcnn", "")
    assert _reasons(world) == {}
    shown = [row for task in world.tasks[LABELLED:] for row in world.studio.predictions(task)]
    assert len(shown) == N - LABELLED
    assert {item["type"] for row in shown for item in row.result} <= {"rectanglelabels"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["boxes", "segmentation", "classes"])
def test_a_project_of_one_label_with_every_task_labelled(make_world: MakeWorld, kind: Kind) -> None:
    world = make_world(
        N, config=_config(kind), learner="auto", learner_options=SMALL[kind], test_min=1, retrain_after=2
    )
    one = LABELS[0]
    for number, scene in enumerate(world.scenes):
        scene.masks = [(one, mask) for _, mask in scene.masks]
        world.studio.create_annotation(world.tasks[number], _result(world, kind, number))
    report = _look(world)
    assert (report.error, report.round) == ("", 1)
    assert report.trained
    assert _look(world).error == ""
    metrics = world.open().db
    with metrics.read() as session:
        shown = project_status(world.settings, session, session.get_one(ProjectRecord, world.project_id))
    figures = shown["rounds"][0]["figures"]["train"]["metrics"]
    assert np.isfinite([value[0] for value in figures.values() if value[0] is not None]).any()
