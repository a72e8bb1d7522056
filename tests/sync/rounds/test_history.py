"""The history names every version with its split, and outlives the store and the models."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from ml_backend.learners.base import Evaluation
from sync.projects.rebuild import rebuild
from sync.report.history_lines import history_lines
from sync.rounds.history import history, history_csv
from sync.rounds.task_queries import finished_digests
from sync.rounds.test_split import repartition
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
METRICS = {
    "AP": (0.5, 0.4, 0.6),
    "AP50": (0.7, 0.6, 0.8),
    "AP50/disc": (0.9, 0.8, 1.0),
    "AP50/bar/thin": (0.5, 0.4, 0.6),
    "AP75": (float("nan"), 0.0, 0.0),
}


@pytest.fixture
def measured(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two rounds of the first split and one of the second."""
    monkeypatch.setattr("tests.sync.tiny_learner.Evaluation", lambda n, k, _: Evaluation(n, k, METRICS))
    world = make_world(16)
    world.label(*range(8))
    for number in range(3):
        if number == 2:
            project = world.open()
            step(repartition, project, sorted(finished_digests(project.db)))
        world.worker().look(world.project_id, force_round=number > 0)
    return world


def _file(world: World) -> list[dict[str, Any]]:
    with (world.open().paths.root / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_row_per_figure_of_every_round(measured: World) -> None:
    rows = history(measured.open().db, measured.settings)
    assert [(row.round, row.split) for row in rows] == [(1, 1)] * 4 + [(2, 1)] * 4 + [(3, 2)] * 4
    first = [(row.metric, row.label, row.value, row.low, row.high) for row in rows[:4]]
    assert first == [
        ("AP", "", 0.5, 0.4, 0.6),
        ("AP50", "", 0.7, 0.6, 0.8),
        ("AP50", "bar/thin", 0.5, 0.4, 0.6),
        ("AP50", "disc", 0.9, 0.8, 1.0),
    ]
    assert {(row.train_tasks, row.test_pictures, row.learner) for row in rows} == {(6, 2, "tiny")}
    on_disk = _file(measured)
    assert [row["version"] for row in on_disk] == [row.version for row in rows]
    assert [float(row["value"]) for row in on_disk] == [row.value for row in rows]


def test_it_outlives_the_store_and_the_models(measured: World) -> None:
    db, paths = measured.open().db, measured.open().paths
    before = history(db, measured.settings)
    (paths.root / "history.csv").unlink()
    (report,) = rebuild(measured.settings, measured.store, measured.studio)
    assert report.error == ""
    assert history(measured.open().db, measured.settings) == before
    assert history_csv(before) == (paths.root / "history.csv").read_text()
    shutil.rmtree(paths.model(before[0].version))
    kept = [
        {name: value for name, value in asdict(row).items() if name not in ("trained_at", "seconds")}
        for row in before
    ]
    left = [asdict(row) for row in history(measured.open().db, measured.settings)]
    assert [{name: row[name] for name in kept[0]} for row in left] == kept


def test_a_line_stands_between_test_splits(measured: World) -> None:
    lines = history_lines(history(measured.open().db, measured.settings))
    assert lines[0] == "test split 1 (2 pictures: too few pictures (n=2) to tell)"
    assert lines[3] == "    AP50     0.700 (0.600–0.800)  bar/thin 0.500  disc 0.900"
    assert [i for i, line in enumerate(lines) if "not to be compared" in line] == [8]
    assert history_lines([]) == ["no model version was measured yet"]
