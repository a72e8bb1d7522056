"""Accepted masks on unfinished tasks as training data of the next round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ml_backend.artifacts.pools import read_pool
from ml_backend.artifacts.verdicts import Verdict, write_verdicts
from ml_backend.kinds.registry import Wanted
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import get_learner
from sync.rounds.progress import Progress
from sync.rounds.propagated import capped, propagated_rows
from sync.rounds.round_records import load_snapshot, trained_round
from tests.sync import tiny_learner
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def verdict(key: str, label: str, value: int, *, verified: bool, lower: float = 0.9) -> Verdict:
    return Verdict(key, label, value, verified, -1, 3, lower, 1.0, 0.95, "test")


def test_no_label_exceeds_its_share_among_drawn_objects_by_a_tenth() -> None:
    label = np.array(["a"] * 300 + ["b"] * 30 + ["c"] * 50, object)
    accepted = np.ones(len(label), bool)
    accepted[::7] = False
    human = {"a": 20, "b": 20, "c": 0}
    kept = capped(label, accepted, human, seed=0)
    assert not (kept & ~accepted).any()
    found = Counter(label[kept].tolist())
    assert found["c"] == 0, "nobody drew one"
    assert found["a"] > 10
    total = sum(human.values()) + sum(found.values())
    for name in ("a", "b"):
        assert (human[name] + found[name]) / total <= 1.1 * human[name] / 40 + 1e-9
    np.testing.assert_array_equal(kept, capped(label, accepted, human, seed=0))
    assert (capped(label, accepted, human, seed=1) != kept).any()
    alone = np.array(["a"] * 9, object)
    assert capped(alone, np.ones(9, bool), {"a": 2}, seed=0).all(), "one label has every share"


def test_verdicts_become_examples_of_the_next_round(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_learner.TinyLearner, "leaves_areas_out", True, raising=False)
    specs: list[TrainSpec] = []

    def train(progress: Progress, learner: str, spec: TrainSpec, folder: Path) -> TrainReport:
        specs.append(spec)
        return get_learner(learner).train(spec, folder, lambda share, text: None)

    monkeypatch.setattr("sync.rounds.train._train_in_child", train)
    world = make_world(16, train_on_propagated=True)
    world.label(*range(6))
    world.worker().look(world.project_id)
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    open_tasks = world.tasks[6:9]
    pool = read_pool(project.paths.pool(record.model_version), task_ids=open_tasks)
    of = [np.flatnonzero(pool.task_id == task) for task in open_tasks]
    assert all(len(rows) >= 3 for rows in of)
    keys, labels = pool.key.tolist(), pool.label.tolist()
    seen, believed, undecided = of[0][:3].tolist()
    rejected, doubtful = of[1][:2].tolist()
    write_verdicts(
        project.paths.round(record.number),
        [
            verdict(keys[seen], labels[seen], 1, verified=True, lower=np.nan),
            verdict(keys[believed], labels[believed], 1, verified=False, lower=0.8),
            verdict(keys[rejected], labels[rejected], -1, verified=True),
            verdict(keys[doubtful], labels[doubtful], 1, verified=False, lower=np.nan),
            *(verdict(keys[i], labels[i], -1, verified=True) for i in of[2]),
        ],
    )
    drawn = load_snapshot(project.paths, record.number)["train"]
    monkeypatch.setattr("sync.rounds.propagated._MOST_SHARE", 10.0)  # a few masks are a large share here
    wanted = project.config.wanted
    (row,) = propagated_rows(project.db, project.paths, record, drawn, wanted=wanted, seed=0)
    assert row["task"] == open_tasks[0], "only tasks with an accepted mask that somebody vouches for"
    weights = {region["rle"]["counts"]: region["weight"] for region in row["regions"]}
    assert weights == {pool.counts[seen]: 1.0, pool.counts[believed]: 0.8}
    assert [rle["counts"] for rle in row["ignore"]] == [pool.counts[i] for i in of[0][2:]]
    assert pool.counts[undecided] == row["ignore"][0]["counts"]
    boxes = [Wanted("boxes", target.labels) for target in wanted]
    assert propagated_rows(project.db, project.paths, record, drawn, wanted=boxes, seed=0) == []

    world.label(9, 10)
    world.worker().look(world.project_id, force_round=True)
    assert len(specs) == 2
    example = next(e for e in specs[1].train if e.task_id == open_tasks[0])
    assert sorted(example.weight) == [0.8, 1.0]
    assert len(example.ignore) == len(row["ignore"]) > 0
    assert not any(e.weight or e.ignore for e in (*specs[0].train, *specs[0].test, *specs[1].test))
    snapshot = load_snapshot(project.paths, 2)
    assert [row["task"] for row in snapshot["propagated"]] == [open_tasks[0]]


def test_a_learner_that_cannot_leave_areas_out_gets_none(make_world: MakeWorld) -> None:
    world = make_world(10, train_on_propagated=True)
    world.label(*range(6))
    world.worker().look(world.project_id)
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    pool = read_pool(project.paths.pool(record.model_version), task_ids=world.tasks[6:])
    rows = [verdict(k, str(v), 1, verified=True) for k, v in zip(pool.key, pool.label, strict=True)]
    write_verdicts(project.paths.round(record.number), rows)
    world.label(6)
    world.worker().look(world.project_id, force_round=True)
    assert "propagated" not in load_snapshot(project.paths, 2)
