"""Dry runs: what they say comes true, and they write nothing anywhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from ml_backend.errors import BadInput
from sync.commands import round as round_command
from sync.installation import Installation
from sync.projects.control import pause, resume
from sync.report.plan_lines import round_lines
from sync.rounds.push import push_state
from sync.rounds.round_records import trained_round
from sync.store.tables import Base
from sync.worker.dry_run import RoundPlan, plan_round
from tests.sync.steps import step

if TYPE_CHECKING:
    from tests.sync.conftest import World

READING = {"project", "projects", "tasks", "prediction_versions", "task_data", "task_ids"}


def _state(world: World) -> tuple[Any, ...]:
    with world.store.read() as session:
        rows = {
            table.name: [tuple(row) for row in session.execute(table.select())]
            for table in Base.metadata.sorted_tables
        }
    files = sorted((world.folder / "data" / "projects").rglob("*"))
    # hidden are notes of what this machine fetched
    return (
        copy.deepcopy(world.studio._db),
        rows,
        {str(p): p.read_bytes() for p in files if p.is_file() and p.name[0] != "."},
    )


def _plan(world: World) -> RoundPlan:
    """The plan, and that making it changes nothing."""
    before, calls, usual = _state(world), list[str](), world.studio.before_call
    world.studio.before_call = calls.append
    try:
        plan = plan_round(world.open())
    finally:
        world.studio.before_call = usual
    assert set(calls) <= READING, calls
    assert _state(world) == before
    return plan


def _round(world: World) -> None:
    report = world.worker().look(world.project_id, force_round=True)
    assert report is not None
    assert report.error == ""


def test_a_first_round_is_foreseen(make_world: Callable[..., World]) -> None:
    world = make_world(14, early_s=0.0)
    empty = _plan(world)
    assert (empty.trains, empty.round, empty.why) == (False, None, "nobody has finished a task yet")
    world.label(*range(8))
    plan = _plan(world)  # the store has read nothing yet
    assert (plan.changed, plan.newly_finished) == (14, 8)
    assert plan.trains
    assert plan.round == 1
    assert plan.minutes.total is None
    _round(world)
    with world.store.read() as session:
        figures = {row.number: row.figures for row in session.execute(_rounds()).scalars()}
    train = figures[1]["train"]
    assert (plan.train_tasks, plan.test_tasks) == (train["n_train"], train["n_test"])
    assert plan.infer_tasks == figures[1]["infer"]["tasks"]
    assert plan.push_add == figures[1]["push"]["sent"] == 6
    assert plan.withdrawn == {}
    text = "\n".join(round_lines(plan))
    assert "6 tasks to learn from, 2 to test on" in text
    assert "no earlier round tells" in text


def _rounds() -> Any:
    from sqlalchemy import select

    from sync.store.tables import RoundRecord

    return select(RoundRecord)


def test_a_second_round_withdraws_what_the_first_one_showed(make_world: Callable[..., World]) -> None:
    world = make_world(20, early_s=0.0)
    world.label(*range(8))
    _round(world)
    world.label(8, 9)
    plan = _plan(world)
    assert plan.newly_finished == 2
    shown = world.studio.project(world.project_id).model_version
    if not plan.trains:  # the first round waits for answers: it is finished first
        assert plan.round == 1
        assert plan.push_version == shown
        assert plan.withdrawn == {}
    for _ in range(20):
        world.answer_all()
        report = world.worker().look(world.project_id)
        assert report is not None
        if report.review is not None and report.review.done:
            break
    plan = _plan(world)
    assert plan.trains
    assert plan.round == 2
    assert "asked for" in plan.why
    held = world.studio.prediction_versions(world.project_id)
    assert plan.withdrawn == held
    assert plan.minutes.total is not None
    assert plan.minutes.rounds == 1
    assert "withdrawn" in "\n".join(round_lines(plan))
    _round(world)
    assert set(world.studio.prediction_versions(world.project_id)).isdisjoint(held)


def test_decisions_that_were_not_pushed_are_told(make_world: Callable[..., World]) -> None:
    world = make_world(20, early_s=0.0, push_interval_s=1e6)
    world.label(*range(8))
    _round(world)
    world.answer_all(limit=3)
    world.worker().look(world.project_id)
    plan = _plan(world)
    opened = world.open()
    state = step(push_state, opened, trained_round(opened.db))
    assert plan.waiting == (len(state.plan.add), len(state.plan.replace))
    assert sum(plan.waiting) > 0
    assert "not shown yet" in "\n".join(round_lines(plan))
    assert plan.trains
    assert plan.push_add == 12


def test_a_round_that_was_not_pushed_is_finished_first(make_world: Callable[..., World]) -> None:
    world = make_world(16, early_s=0.0)
    world.label(*range(8))

    def stop(place: str) -> None:
        if place == "push.chunk":
            raise RuntimeError("killed")

    report = world.worker(stop).look(world.project_id)
    assert report is not None
    assert "killed" in report.error
    plan = _plan(world)
    assert (plan.trains, plan.round) == (False, 1)
    assert "finished first" in plan.why
    assert (plan.push_add, plan.infer_tasks) == (8, 0)
    assert plan.questions > 0
    _round(world)
    assert world.studio.prediction_versions(world.project_id) == {plan.push_version: 8}


def test_a_pause_is_told(make_world: Callable[..., World]) -> None:
    world = make_world(10, early_s=0.0)
    world.label(*range(6))
    pause(world.settings, world.store, world.project_id, "all")
    plan = _plan(world)
    assert plan.paused.startswith("paused: nothing is trained")
    assert "a round would be refused" in "\n".join(round_lines(plan))
    resume(world.settings, world.store, world.project_id)
    assert _plan(world).paused == ""


def test_the_command(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(10, early_s=0.0)
    world.label(*range(6))
    monkeypatch.setattr(
        "sync.installation.open_installation",
        lambda *_, **__: Installation(world.settings, world.store, world.studio, None),
    )
    app = typer.Typer()
    round_command.register(app)
    before = _state(world)
    words = ["--project", str(world.project_id), "--dry-run"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.stdout.splitlines()[-1] == "Nothing was done: this was a dry run."
    told = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout)
    assert told["trains"] is True
    assert told["newly_finished"] == 6
    assert _state(world) == before
    with pytest.raises(BadInput, match="does not take part"):
        CliRunner().invoke(app, ["--project", "99", "--dry-run"], catch_exceptions=False)
