"""COCO export: which round, readable file names, pictures that cannot be read, the mode of the file."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ml_backend.masks.coco import load_coco
from sync.exchange.export import ExportReport, export_project
from sync.rounds.round_records import finish_step, trained_round, update_round
from sync.store.round_state import reviewed_round
from sync.store.tables import RoundRecord, TaskRecord
from sync.studio.protocol import PATH_FIELD
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _round(number: int, step_name: str, *, done: bool = False, accepted: int = 0) -> RoundRecord:
    figures = {"review": {"accepted": accepted}} if accepted else {}
    return RoundRecord(project_id=1, number=number, step=step_name, review_done=done, figures=figures)


def test_the_round_to_export() -> None:
    def number(*rounds: RoundRecord) -> int | None:
        found = reviewed_round(rounds)
        return None if found is None else found.number

    assert number() is None
    assert number(_round(1, "train"), _round(2, "cluster")) is None
    one = _round(1, "push", done=True, accepted=102)
    for waiting in ("start", "train", "infer", "cluster", "review"):
        assert number(one, _round(2, waiting)) == 1
    assert number(one, _round(2, "review", done=True)) == 2
    begun = _round(1, "push", accepted=102)
    assert number(begun, _round(2, "infer")) == number(begun, _round(2, "review")) == 1
    assert number(begun, _round(2, "review", accepted=3)) == 2
    assert number(_round(1, "review")) == 1


def _reviewed(world: World) -> World:
    worker = world.worker()
    for _ in range(20):
        report = worker.look(world.project_id)
        assert report is not None
        assert report.error == ""
        if report.review is not None and report.review.done:
            return world
        world.answer_all()
    raise AssertionError("the review never ended")


def _export(world: World, out: Path) -> tuple[ExportReport, dict[str, Any]]:
    return step(export_project, world.open(), out), json.loads(out.read_text())


def test_accepted_masks_stay_while_the_next_round_is_made(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(20, policy="original")  # the certified policy verifies all of so few masks
    world.label(*range(6))
    _reviewed(world)
    before, _ = _export(world, tmp_path / "before.json")
    assert before.annotations["propagated"] > 0
    project = world.open()
    first = step(trained_round, project)
    assert first is not None
    with world.store.write() as session:  # the next round is trained, its pool is being made
        session.add(
            RoundRecord(
                project_id=world.project_id, number=2, model_version="gs-r2", digest="d", step="train",
                finished_tasks=8, started_at=first.started_at, updated_at=first.updated_at, figures={},
            )
        )  # fmt: skip
    after, document = _export(world, tmp_path / "after.json")
    assert after == before
    assert (after.round, after.model_version) == (1, first.model_version)
    assert document["info"]["round"] == 1
    assert document["info"]["model_version"] == first.model_version
    assert document["info"]["review_done"] is True
    step(finish_step, project, 2, "review", {"accepted": 0})
    assert _export(world, tmp_path / "begun.json")[0] == before
    step(update_round, project, 2, review_done=True)
    assert _export(world, tmp_path / "done.json")[0].round == 2


def test_a_picture_that_cannot_be_read_is_named_and_left_out(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(6)
    world.label(0, 1)
    world.studio.create_annotation(world.tasks[2], [])
    world.studio.create_annotation(world.tasks[3], [])
    assert world.worker().look(world.project_id) is not None
    shutil.rmtree(world.folder / "data" / "projects", ignore_errors=True)
    for folder in (world.folder / "data").glob("*image*"):
        shutil.rmtree(folder)
    (world.images / "002.png").write_bytes(b"no picture")
    done, document = _export(world, tmp_path / "a.json")
    assert [(row.task_id, row.file_name) for row in done.left_out] == [(world.tasks[2], "002.png")]
    assert done.left_out[0].reason
    assert document["info"]["left_out"][0]["task"] == world.tasks[2]
    assert {row["id"] for row in document["images"]} == {world.tasks[i] for i in (0, 1, 3)}


def test_the_file_is_read_again_by_our_loader_and_by_any_that_joins_names_to_a_folder(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = make_world(5)
    world.label(*range(4))
    assert world.worker().look(world.project_id) is not None
    given = tmp_path / "given"
    places = ["a/one.png", "b/one.png", "b/c/three.png", "four.png"]
    with world.store.write() as session:
        for task, place, at in zip(world.tasks, places, sorted(world.images.iterdir()), strict=False):
            (given / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(at, given / place)
            record = session.get_one(TaskRecord, task)
            record.data = {**record.data, PATH_FIELD: place}
    _, document = _export(world, tmp_path / "a.json")
    assert [row["file_name"] for row in document["images"]] == places
    loaded = load_coco(given, tmp_path / "a.json")
    assert [image.path for image in loaded.images] == [given / place for place in places]
    assert loaded.n_instances == len(document["annotations"])
    for row in document["images"]:
        with Image.open(os.path.join(given, row["file_name"])) as picture:
            assert (picture.height, picture.width) == (row["height"], row["width"])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_the_file_follows_the_umask(make_world: MakeWorld, tmp_path: Path, umask: int, mode: int) -> None:
    world = make_world(2)
    before = os.umask(umask)
    try:
        _export(world, tmp_path / "a.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == mode


@pytest.mark.parametrize("format", ["masks", "voc", "yolo", "parquet"])
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o027, 0o750)])
def test_a_folder_follows_the_umask(
    make_world: MakeWorld, tmp_path: Path, umask: int, mode: int, format: str
) -> None:
    world = make_world(2)
    before = os.umask(umask)
    try:
        step(export_project, world.open(), tmp_path / "out", format=format)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode
    assert [path.name for path in tmp_path.glob(".out*")] == []
