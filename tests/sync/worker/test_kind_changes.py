"""Somebody edits the label config half way: another kind, another tag, a class more."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from ml_backend.label_studio.config_builder import build_label_config
from sync.exchange.collect import collect
from sync.rounds.round_records import load_snapshot
from sync.rounds.task_queries import finished_tasks
from tests.sync.conftest import LABELS, World

MakeWorld = Callable[..., World]


def edit_config(world: World, xml: str) -> None:
    world.studio._get("projects", world.project_id)["label_config"] = xml


def look(world: World) -> Any:
    report = world.worker().look(world.project_id)
    assert report is not None
    return report


def test_masks_drawn_with_a_tag_that_is_gone_are_no_pictures_without_objects(make_world: MakeWorld) -> None:
    world = make_world(8, question_budget=0)
    world.label(*range(6))
    assert look(world).trained
    edit_config(world, build_label_config(LABELS, kind="boxes"))
    report = look(world)
    assert not report.trained  # nobody has drawn a box yet
    project = world.open()
    assert project.config.kind == "boxes"
    assert finished_tasks(project.db) == {}
    with project.db.read() as session:
        from sync.store.tables import TaskRecord

        reasons = {task.broken for task in session.query(TaskRecord) if task.finished}
    assert all("is no tag of the label config" in reason for reason in reasons)
    # nothing is lost: with the tag back they count again
    edit_config(world, build_label_config(LABELS))
    look(world)
    assert len(finished_tasks(world.open().db)) == 6


def test_a_class_of_the_picture_is_learnt_as_soon_as_the_config_asks_for_it(make_world: MakeWorld) -> None:
    world = make_world(8, question_budget=0)
    world.label(*range(6))
    assert look(world).round == 1
    choices = '<Choices name="class" toName="image"><Choice value="few"/><Choice value="many"/></Choices>'
    xml = build_label_config(LABELS).replace("<Image", f"{choices}<Image", 1)
    edit_config(world, xml)
    project = world.open()
    report = look(world)
    assert "classifier" in report.error or report.round == 2  # a class nobody picked yet cannot be learnt
    frozen = load_snapshot(project.paths, 2)
    assert frozen["learner"] == "several"
    assert [part["kind"] for part in frozen["options"]["parts"]] == ["instances", "classes"]


def test_what_was_accepted_before_another_kind_is_not_exported(make_world: MakeWorld) -> None:
    world = make_world(9, policy="verify-all", question_batch=500)
    world.label(*range(6))
    look(world)
    world.answer_all()
    look(world)

    def accepted() -> int:
        project = world.open()
        content = collect(project.db, project.config.wanted, project.paths, project.images)
        return sum(len(picture.items) for picture in content.pictures if not picture.finished)

    before = accepted()
    assert before
    edit_config(world, build_label_config(LABELS, kind="boxes"))
    look(world)
    assert accepted() == 0
    edit_config(world, build_label_config(LABELS))
    look(world)
    assert accepted() == before


def test_looks_after_another_kind_do_nothing_over_and_over(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(9)
    world.label(*range(6))
    look(world)
    edit_config(world, build_label_config(LABELS, kind="boxes"))
    worker = world.worker()
    for _ in range(2):
        worker.look(world.project_id)
    done: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        module, _, attribute = name.rpartition(".")
        before = getattr(import_module(module), attribute)

        def call(*args: Any) -> Any:
            done.append(name)
            return before(*args)

        return call

    for name in ("sync.review.review.decide", "sync.rounds.train.load_snapshot"):
        monkeypatch.setattr(name, noted(name))
    worker.look(world.project_id)
    assert done == []
