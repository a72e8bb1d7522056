"""A pool is the same whatever executor filled it, and whatever happened to the machines meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.feature_store import known_features, read_features
from ml_backend.artifacts.pools import read_pool, read_tasks
from ml_backend.artifacts.task_orders import read_order
from ml_backend.learners.registry import LEARNERS
from sync.executor.base import Executor
from sync.executor.processes import ProcessExecutor
from sync.rounds.picture_vectors import frozen_folder
from sync.rounds.progress import Memo
from sync.rounds.round_records import trained_round
from sync.rounds.start_order import START
from tests.sync.conftest import World
from tests.sync.executor.conftest import NODE

MakeWorld = Callable[..., World]
OPTIONS: dict[str, Any] = {
    "learner": "mortal",
    "cluster_features": "classical",
    "order_mirror": True,
    "order_start": True,
    "question_budget": 30,
    "mistakes": "off",
    "infer_batch": 2,
}


@pytest.fixture(autouse=True)
def even_little_work_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.review.crops._FEW", 0)
    monkeypatch.setattr("sync.rounds.cluster._LARGE", 1)


def _round(world: World, memo: Memo) -> list[Any]:
    """Two looks, without and with labels; all that was worked out of pixels, as arrays.

    ``memo`` holds the executor afterwards, or did so before.
    """
    damaged = world.images / "013.png"
    damaged.write_bytes((world.images / "012.png").read_bytes()[:200])
    worker = world.worker()
    worker._memos["sync"].update(memo)
    texts = [worker.look(world.project_id)]
    project = world.open()
    frozen = frozen_folder(project.paths, project.settings.features)
    vectors = read_features(frozen, sorted(known_features(frozen)))[1]
    order = read_order(project.paths.order(START))
    world.label(*range(5))
    texts.append(worker.look(world.project_id))
    memo |= {name: kept for name, kept in worker._memos["sync"].items() if isinstance(kept, Executor)}
    assert [kept.name for kept in memo.values() if isinstance(kept, Executor)] == [world.settings.executor]
    assert [report.error for report in texts if report is not None] == ["", ""]
    record = trained_round(project.db)
    assert record is not None
    assert order is not None
    folder = project.paths.pool(record.model_version)
    pool, tasks = read_pool(folder), read_tasks(folder)
    assert len(vectors) == 13
    assert len(pool) > 12
    assert any(tasks.error)
    assert pool.edges.any()
    crops = sorted(project.paths.crops.glob("*.jpg"))
    assert len(crops) > 12
    trees = [np.load(project.paths.round(1) / f"tree-{i}.npz") for i in range(2)]
    assert min(int(tree["n"]) for tree in trees) > 2
    made = [np.frombuffer(path.read_bytes(), "u1") for path in crops] + [
        tree[name] for tree in trees for name in sorted(tree)
    ]
    parts = sorted(folder.rglob("part-*.parquet"), key=lambda path: (path.parts[-2], path.name))
    return [
        vectors,
        order.task_id,
        order.value,
        *made,
        *(np.frombuffer(part.read_bytes(), "u1") for part in parts),
    ]


def test_a_pool_of_two_processes_is_that_of_the_worker(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LEARNERS, "mortal", "tests.sync.executor.functions:MortalLearner")
    mine = _round(make_world(14, name="here", **OPTIONS), {})
    memo: Memo = {}
    theirs = _round(make_world(14, name="there", **OPTIONS, local_processes=2), memo)
    (executor,) = memo.values()
    assert isinstance(executor, ProcessExecutor)
    assert len(executor._idle) == 2, "two processes had something to do"
    executor.close()
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_pool_of_ray_is_that_of_the_worker_also_when_a_node_is_killed(
    make_world: MakeWorld, ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LEARNERS, "mortal", "tests.sync.executor.functions:MortalLearner")
    mine = _round(make_world(14, name="here", **OPTIONS), {})
    doomed_file = Path(ray_cluster.doomed)
    options = {**OPTIONS, "executor": "ray", "ray_address": ray_cluster.address}
    options |= {
        "artifacts_url": str(tmp_path / "objects"),
        "signing_key": "k" * 32,
    }  # files of two kinds travel
    memo: Memo = {}
    with monkeypatch.context() as there:  # the training is the cluster's as well
        there.setattr("sync.rounds.train._train_in_child", lambda *_: pytest.fail("trained in the worker"))
        theirs = _round(make_world(14, name="there", **options), memo)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)

    doomed = ray_cluster.add_node(**NODE)
    doomed_file.write_text(str(doomed.all_processes["raylet"][0].process.pid))
    rescued = _round(make_world(14, name="rescued", **{**options, "ray_train_cpus": 0}), memo)
    for kept in memo.values():
        assert isinstance(kept, Executor)
        kept.close()
    ray_cluster.remove_node(doomed, allow_graceful=False)
    doomed_file.unlink()
    assert doomed_file.with_name("killed").exists(), "a node was killed while it worked on a batch"
    for one, other in zip(mine, rescued, strict=True):
        np.testing.assert_array_equal(one, other)
