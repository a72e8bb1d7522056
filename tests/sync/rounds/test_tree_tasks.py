"""Trees of large labels are tasks of the executor, and the same wherever they grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.files import read_json
from sync.executor.processes import ProcessExecutor
from sync.rounds import cluster as module
from sync.rounds.cluster import cluster
from sync.rounds.project import OpenProject
from sync.rounds.round_records import trained_round
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _grown(project: OpenProject) -> list[tuple[list[str], dict[str, Any]]]:
    """Keys of the instances and columns of the tree of each label."""
    folder = project.paths.round(1)
    return [
        (read_json(folder / f"keys-{i}.json"), dict(np.load(folder / f"tree-{i}.npz")))
        for i in range(len(LABELS))
    ]


def test_trees_that_grow_in_processes_are_those_of_the_worker(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(14, question_budget=0, mistakes="off")
    world.label(*range(5))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    mine = _grown(project)
    sizes = [len(keys) for keys, _ in mine]
    assert min(sizes) >= 2
    executor = ProcessExecutor(2)
    monkeypatch.setattr(module, "executor_of", lambda settings, memo: executor)

    def again() -> None:
        (project.paths.round(1) / "pool.json").unlink()
        for i in range(len(LABELS)):
            (project.paths.round(1) / f"tree-{i}.npz").unlink()
        step(cluster, project, record)
        for (keys, tree), (theirs, other) in zip(mine, _grown(project), strict=True):
            assert keys == theirs
            assert tree.keys() == other.keys()
            for name, column in tree.items():
                np.testing.assert_array_equal(column, other[name])

    again()
    assert executor._idle == [], "such small trees wait for no process"
    monkeypatch.setattr(module, "_LARGE", max(sizes))
    again()
    assert executor._idle == [], "there is one large tree at most"
    monkeypatch.setattr(module, "_LARGE", min(sizes))
    again()
    assert len(executor._idle) == 2
    executor.close()
