"""``groundswell mistakes``: the list, the page, what a person found right, and the cross-validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.errors import BadInput
from ml_backend.learners.registry import get_learner
from sync.commands import mistakes
from sync.installation import Installation
from sync.mistakes.marks import LINE_FIELD, OK_FIELD
from tests.sync.conftest import World
from tests.sync.mistakes.test_find import annotate, look, planted, played

App = tuple[typer.Typer, World, dict[str, int]]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, make_world: Callable[..., World]) -> App:
    world, tasks = played(make_world)
    return _app(monkeypatch, world), world, tasks


def _app(monkeypatch: pytest.MonkeyPatch, world: World) -> typer.Typer:
    def open_installation(*_: Any, **__: Any) -> Installation:
        return Installation(world.settings, world.store, world.studio, None)

    monkeypatch.setattr("sync.installation.open_installation", open_installation)
    # the tiny learner is known to this process only
    monkeypatch.setattr(
        "sync.mistakes.folds.run_training",
        lambda name, spec, out, report: get_learner(name).train(spec, out, report),
    )
    made = typer.Typer()
    made.callback()(lambda: None)
    mistakes.register(made)
    return made


def _run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["mistakes", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_list_names_task_kind_reason_and_judge(app: App) -> None:
    commands, world, tasks = app
    found = json.loads(_run(commands, "--project", str(world.project_id), "--json"))
    assert {row["kind"]: row["task"] for row in found["findings"]} == tasks
    judge = ModelRegistry(world.settings.data_dir).current(world.project_id)
    assert {row["judged_by"] for row in found["findings"]} == {judge}
    assert all(row["box_xyxy"] is not None for row in found["findings"])
    text = _run(commands, "--project", str(world.project_id))
    assert "may be missing" in text
    assert f"of {found['finished']} finished tasks were judged" in text
    assert "--folds 5" in text
    one = _run(commands, "--project", str(world.project_id), "--top", "1")
    assert one.count("  task ") == 1


def test_the_page_holds_pictures_and_no_html_of_people(app: App, tmp_path: Path) -> None:
    commands, world, tasks = app
    world.settings = world.settings.model_copy(update={"studio_public_url": "https://labels.example"})
    with world.store.write() as session:
        from sync.store.tables import ProjectRecord

        session.get_one(ProjectRecord, world.project_id).title = "<script>alert(1)</script>"
    out = tmp_path / "page.html"
    _run(commands, "--project", str(world.project_id), "--out", str(out))
    page = out.read_text()
    assert page.count("data:image/jpeg;base64,") == len(tasks)
    assert "<script>alert" not in page
    address = f"https://labels.example/projects/{world.project_id}/data"
    assert f'href="{address}?task={tasks["overlooked"]}"' in page


def test_dismiss_marks_the_task_and_the_worker_takes_its_line_away(app: App) -> None:
    commands, world, tasks = app
    worker = world.worker()
    worker.look(world.project_id)
    assert tasks["swapped"] in world.studio.task_values(world.project_id, LINE_FIELD).values()
    found = json.loads(
        _run(commands, "--project", str(world.project_id), "--dismiss", str(tasks["swapped"]), "--json")
    )
    assert tasks["swapped"] not in {row["task"] for row in found["findings"]}
    assert found["dismissed"] == 1
    data = world.studio.task(tasks["swapped"]).data
    assert LINE_FIELD not in data
    assert data[OK_FIELD]
    worker.look(world.project_id)
    worker.look(world.project_id)
    shown = set(world.studio.task_values(world.project_id, LINE_FIELD).values())
    assert shown == set(tasks.values()) - {tasks["swapped"]}
    with pytest.raises(BadInput, match="no finished task"):
        _run(commands, "--project", str(world.project_id), "--dismiss", "999999")


def test_folds_judge_what_every_version_was_trained_on(
    monkeypatch: pytest.MonkeyPatch, make_world: Callable[..., World]
) -> None:
    world = make_world(14, early_s=0, train_clicks=False)
    tasks = planted(world)
    world.label(*range(6))
    look(world)  # the first training has seen all four
    commands = _app(monkeypatch, world)
    number = str(world.project_id)
    before = json.loads(_run(commands, "--project", number, "--json"))
    assert before["unjudged"] == 10 - sum(before["judged"].values()) > 0
    after = json.loads(_run(commands, "--project", number, "--folds", "3", "--json"))
    assert after["unjudged"] == 0
    by_folds = {row["kind"]: row for row in after["findings"] if "of a cross-validation" in row["judged_by"]}
    assert set(by_folds) <= set(tasks)
    assert by_folds
    for kind, row in by_folds.items():
        assert row["task"] == tasks[kind]
    assert {row["task"] for row in after["findings"]} == set(tasks.values())
    # a second run has nothing to train
    monkeypatch.setattr("sync.mistakes.folds._train_one", lambda *_: pytest.fail("trained again"))
    again = json.loads(_run(commands, "--project", number, "--folds", "3", "--json"))
    assert again["findings"] == after["findings"]
    with pytest.raises(BadInput, match="too few"):
        _run(commands, "--project", number, "--folds", "1")


def test_before_the_first_round_it_says_so(
    monkeypatch: pytest.MonkeyPatch, make_world: Callable[..., World]
) -> None:
    world = make_world(6)
    annotate(world, 0, world.scenes[0].masks)
    with pytest.raises(BadInput, match="no model yet"):
        _run(_app(monkeypatch, world), "--project", str(world.project_id))
