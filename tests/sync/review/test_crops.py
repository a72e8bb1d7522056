"""Crops of questions: the same whoever cuts them, made once, and pictures that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ml_backend.errors import BadInput
from ml_backend.images.crops import render_crop
from ml_backend.images.decode import read_image
from ml_backend.masks.rle import encode_mask
from sync.executor.base import Node
from sync.executor.local import LocalExecutor
from sync.executor.processes import ProcessExecutor
from sync.review.crop_tasks import Cutting, ToCut, cut
from sync.review.crops import make_crops
from sync.review.question import Question
from sync.rounds.loaded_pictures import Picture
from sync.rounds.project import OpenProject
from sync.rounds.pull import pull
from sync.store.tables import TaskRecord
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
PICTURES = 18
"""more than are always done in the worker"""


def _pulled(make_world: MakeWorld, name: str) -> tuple[World, OpenProject]:
    world = make_world(PICTURES, name=name)
    project = world.open()
    step(pull, project)
    return world, project


def _questions(world: World) -> list[Question]:
    """Two masks of each picture; those of a picture do not stand together."""
    return [
        Question(
            key=f"1:q{number}-{i}:0:0", project_id=world.project_id, round=1, task_id=world.tasks[number],
            instance=f"q{number}-{i}", label=label, item=0, cluster=0, stream=0, inclusion=1.0, form=0,
            repeat=0, prior=0.8, rle=encode_mask(mask),
        )
        for i in range(2)
        for number, (label, mask) in enumerate(scene.masks[i] for scene in world.scenes)
    ]  # fmt: skip


def _crops(project: OpenProject) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in project.paths.crops.glob("*.jpg")}


def test_crops_of_processes_are_those_of_the_worker(make_world: MakeWorld) -> None:
    world, project = _pulled(make_world, "here")
    questions = _questions(world)
    assert step(make_crops, project, LocalExecutor(), questions) == {}
    mine = _crops(project)
    for question in questions:
        pixels = read_image(world.images / f"{world.tasks.index(question.task_id):03d}.png")
        assert mine[question.instance] == render_crop(
            pixels, question.rle, size_px=project.settings.crop_size_px
        )
    there, theirs = _pulled(make_world, "there")
    executor = ProcessExecutor(2)
    assert step(make_crops, theirs, executor, _questions(there)) == {}
    assert len(executor._idle) == 2, "two processes had something to do"
    executor.close()
    assert _crops(theirs) == mine


def test_a_few_crops_wait_for_no_process(make_world: MakeWorld) -> None:
    world, project = _pulled(make_world, "few")
    executor = ProcessExecutor(2)
    assert step(make_crops, project, executor, _questions(world)[:5]) == {}
    assert executor._idle == []
    assert len(_crops(project)) == 5


class _NotAsked(LocalExecutor):
    def map(self, *_: object, **__: object) -> pytest.fail.Exception:  # type: ignore[override]
        pytest.fail("all crops are there")


def test_crops_are_made_once(make_world: MakeWorld) -> None:
    world, project = _pulled(make_world, "once")
    questions = _questions(world)[:4]
    step(make_crops, project, LocalExecutor(), questions[:3])
    lost = project.paths.crops / f"{questions[0].instance}.jpg"
    kept = project.paths.crops / f"{questions[1].instance}.jpg"
    lost.unlink()
    kept.write_bytes(b"as it was")
    assert step(make_crops, project, LocalExecutor(), questions) == {}
    assert lost.exists()
    assert kept.read_bytes() == b"as it was"
    assert len(_crops(project)) == 4
    assert step(make_crops, project, _NotAsked(), questions) == {}


def test_a_damaged_picture_costs_its_own_crops_only(make_world: MakeWorld) -> None:
    world, project = _pulled(make_world, "damaged")
    (world.images / "001.png").write_bytes((world.images / "000.png").read_bytes()[:200])
    questions = [question for question in _questions(world) if question.task_id in world.tasks[:3]]
    errors = step(make_crops, project, LocalExecutor(), questions)
    assert set(errors) == {"q1-0", "q1-1"}
    assert all("damaged" in error or "truncated" in error for error in errors.values())
    assert set(_crops(project)) == {"q0-0", "q0-1", "q2-0", "q2-1"}


def test_a_picture_that_is_decoded_where_it_is_cut_may_be_damaged_too(make_world: MakeWorld) -> None:
    world, _ = _pulled(make_world, "bytes")
    data = (world.images / "000.png").read_bytes()
    masks = tuple(encode_mask(mask) for _, mask in world.scenes[0].masks)
    asked = [ToCut(Picture(None, part, 10**6), masks) for part in (data[:200], data)]
    damaged, whole = cut(Cutting(64), asked, Node({}, {}))
    assert damaged.error
    assert damaged.crops == ()
    assert not whole.error
    assert len(whole.crops) == len(masks)


def test_a_deleted_task_has_no_crop(make_world: MakeWorld) -> None:
    world, project = _pulled(make_world, "deleted")
    questions = _questions(world)[:2]
    with world.store.write() as session:
        session.delete(session.get_one(TaskRecord, questions[0].task_id))
    errors = step(make_crops, project, LocalExecutor(), questions)
    assert errors == {"q0-0": f"task {world.tasks[0]} was deleted"}


def test_a_mask_of_another_size_is_an_error(make_world: MakeWorld) -> None:
    world, project = _pulled(make_world, "other size")
    (question, *_) = _questions(world)
    wrong = replace(question, rle=encode_mask(np.ones((4, 4), bool)))
    with pytest.raises(BadInput, match="the mask has size"):
        step(make_crops, project, LocalExecutor(), [wrong])
