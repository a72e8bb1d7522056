"""What the worker does for clicks: embeddings in serving order, a click network that never stops a round."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_backend.artifacts import write_json
from ml_backend.clicks.service import ClickService, TaskRef
from ml_backend.errors import BadImage, ModelError
from sync.steps.rounds import current_round
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


def _figures(world: World) -> dict[str, Any]:
    record = current_round(world.open())
    assert record is not None
    found: dict[str, Any] = record.figures.get("clicks", {})
    return found


def test_the_next_tasks_are_embedded_least_certain_first(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []

    def embed(service: ClickService, ref: TaskRef, **_: Any) -> str:
        embedded.append(ref.task_id)
        if len(embedded) == 2:
            raise BadImage("gone")
        return "encoded"

    monkeypatch.setattr(ClickService, "embed", embed)
    world = make_world(12, embed_ahead=4)
    world.label(*range(5))
    worker = world.worker()
    report = worker.look(world.project_id)
    assert report is not None
    assert report.error == ""
    scores = {task: world.studio.predictions(task)[0].score for task in world.tasks[5:]}
    order = sorted(scores, key=lambda task: (round(scores[task], 5), task))
    assert embedded == order[:4]
    assert (_figures(world)["embedded"], _figures(world)["not_embedded"]) == (3, 1)
    upcoming = json.loads((world.open().paths.root / "upcoming.json").read_text())
    assert [task for task, _ in upcoming] == order
    worker.look(world.project_id)
    assert len(embedded) == 4  # nothing changed, nothing to do


def test_a_click_network_is_trained_once_per_round(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def job(spec: dict[str, Any], out: Path, progress: Callable[[float, str], None]) -> dict[str, Any]:
        asked.append(spec)
        write_json(out / "report.json", {"use": True})
        return {"use": True}

    monkeypatch.setattr("ml_backend.clicks.train_click_job.run_click_job", job)
    world = make_world(12, train_clicks=True)
    world.label(*range(6))
    worker = world.worker()
    for _ in range(2):
        report = worker.look(world.project_id)
        assert report is not None
        assert report.error == ""
    (spec,) = asked
    test = {row["task_id"] for row in spec["test"]}
    assert len(test) == 2
    assert not test & {row["task_id"] for row in spec["train"]}
    assert _figures(world)["serves"] is True
    assert (world.open().paths.clicks / "current").read_text() == _figures(world)["version"]


def test_a_click_network_that_fails_leaves_the_round_alone(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(*_: Any) -> dict[str, Any]:
        raise ModelError("no memory left")

    monkeypatch.setattr("ml_backend.clicks.train_click_job.run_click_job", job)
    world = make_world(12, train_clicks=True)
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    assert report.pushed is not None
    assert "no memory left" in _figures(world)["failed"]
