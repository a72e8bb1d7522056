"""A label renamed or removed half way: no round fails for it, nothing is lost, and people are told."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from ml_backend.label_studio.config_builder import build_label_config
from sync.report.status_figures import project_status
from sync.rounds.round_records import current_round, load_snapshot
from sync.store.tables import AnnotationRecord, ProjectRecord, RoundRecord, TaskRecord
from sync.worker.look import LookReport
from tests.sync.conftest import LABELS, World

MakeWorld = Callable[..., World]


def _relabel(world: World, labels: tuple[str, ...]) -> None:
    world.studio._db["projects"][str(world.project_id)]["label_config"] = build_label_config(labels)


def _look(world: World) -> LookReport:
    report = world.worker().look(world.project_id)
    assert report is not None
    return report


def _record(world: World) -> RoundRecord:
    record = current_round(world.open().db)
    assert record is not None
    return record


def _shown_labels(world: World) -> set[str]:
    version = world.studio.project(world.project_id).model_version
    return {
        item["value"]["brushlabels"][0]
        for task in world.studio.task_ids(world.project_id)
        for row in world.studio.predictions(task)
        if row.model_version == version
        for item in row.result
    }


def _broken(world: World) -> dict[int, str]:
    with world.store.read() as session:
        rows = session.scalars(select(TaskRecord).where(TaskRecord.broken != "")).all()
        return {row.id: row.broken for row in rows}


def _only_of(world: World, label: str) -> list[int]:
    return [i for i, scene in enumerate(world.scenes) if {name for name, _ in scene.masks} == {label}]


def test_a_removed_label_breaks_its_annotations_only(make_world: MakeWorld) -> None:
    world = make_world(32, test_fraction=0.1)
    discs = _only_of(world, "disc")
    mixed = [i for i in range(32) if i not in discs and i not in _only_of(world, "bar")]
    assert len(discs) >= 3
    done = [*discs[:3], *mixed[:6]]
    world.label(*done)
    assert _look(world).error == ""
    assert _shown_labels(world) == set(LABELS)
    _relabel(world, ("disc",))
    report = _look(world)
    assert (report.error, report.round) == ("", 2)
    assert set(_broken(world)) == {world.tasks[i] for i in mixed[:6]}
    assert all("bar" in reason for reason in _broken(world).values())
    with world.store.read() as session:
        shown = project_status(world.settings, session, session.get_one(ProjectRecord, world.project_id))
        assert {row["task"] for row in shown["broken"]} == set(_broken(world))
    snapshot = load_snapshot(world.open().paths, 2)
    assert snapshot["labels"] == ["disc"]
    used = {row["task"] for row in (*snapshot["train"], *snapshot["test"])}
    assert used == {world.tasks[i] for i in discs[:3]}
    assert _shown_labels(world) == {"disc"}, "nothing is shown that nobody can draw"
    # the label comes back: so do its annotations, none of them is lost
    _relabel(world, LABELS)
    report = _look(world)
    assert (report.error, report.round) == ("", 3)
    assert _broken(world) == {}
    snapshot = load_snapshot(world.open().paths, 3)
    assert {row["task"] for row in (*snapshot["train"], *snapshot["test"])} == {world.tasks[i] for i in done}
    assert _shown_labels(world) == set(LABELS)


def test_a_renamed_label_waits_for_its_annotations(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(8))
    _look(world)
    before = _record(world)
    _relabel(world, ("round", "bar"))
    report = _look(world)
    assert report.error == "" or "no finished task" in report.error
    usable = set(_only_of(world, "bar")) & set(range(8))
    assert len(_broken(world)) == 8 - len(usable)
    assert "disc" not in _shown_labels(world)
    with world.store.read() as session:
        kept = session.scalars(select(AnnotationRecord)).all()
    assert len(kept) == 8, "annotations stay where they are"
    # people rename the label in their annotations, and the loop goes on
    for number in range(8):
        (row,) = world.studio.task(world.tasks[number]).annotations
        result = [
            {**item, "value": {**item["value"], "brushlabels": [{"disc": "round"}.get(label, label)]}}
            for item in row.result
            for label in item["value"]["brushlabels"]
        ]
        world.studio.update_annotation(row.id, result)
    report = _look(world)
    assert report.error == ""
    assert _broken(world) == {}
    world.worker().look(world.project_id, force_round=True)
    assert _record(world).number > before.number
    assert _shown_labels(world) == {"round", "bar"}


def test_no_annotation_of_the_new_labels_stops_nothing(make_world: MakeWorld) -> None:
    world = make_world(8)
    world.label(*range(6))
    _look(world)
    _relabel(world, ("cat", "dog"))
    for _ in range(2):
        report = _look(world)
        assert report.error == ""
        assert _record(world).number == 1, "there is nothing to train on"
    assert len(_broken(world)) == 6
    assert _shown_labels(world) == set()
    _relabel(world, LABELS)
    assert _look(world).error == ""
    assert _shown_labels(world) == set(LABELS)


def test_with_every_task_labelled_rounds_go_on(make_world: MakeWorld) -> None:
    world = make_world(8, retrain_after=3)
    world.label(*range(8))
    report = _look(world)
    assert (report.error, report.round) == ("", 1)
    for number in range(3):
        (row,) = world.studio.task(world.tasks[number]).annotations
        world.studio.update_annotation(row.id, world.scenes[number].result()[:-1])
    report = _look(world)
    assert (report.error, report.round) == ("", 2)
    assert _look(world).trained == ""
