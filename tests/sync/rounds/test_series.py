"""Pictures that belong together: the test split never parts them, and what is like it is not trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.task_orders import read_order
from ml_backend.errors import BadInput
from sync.rounds.round_records import current_round
from sync.rounds.series import draw_series, in_series_of, series_of
from sync.rounds.task_queries import finished_digests
from sync.rounds.test_split import newest_split, repartition
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _grouped(make_world: MakeWorld, n: int, size: int, **options: object) -> tuple[World, dict[int, str]]:
    """A world whose tasks belong together in runs of ``size``."""
    world = make_world(n, split_by="plate", **options)
    group = {}
    for place, task in enumerate(world.tasks):
        group[task] = f"plate {place // size}"
        data = world.studio.task(task).data
        world.studio.set_task_data(task, {**data, "plate": group[task]})
    return world, group


def test_a_split_takes_whole_series_and_nothing_like_it_is_trained_on(make_world: MakeWorld) -> None:
    world, group = _grouped(make_world, 24, 3, test_fraction=0.3, order_explore=0.0)
    world.label(*range(0, 24, 2))  # of each series one or two
    worker = world.worker()
    worker.look(world.project_id)
    project = world.open()
    split = newest_split(project.db)
    record = current_round(project.db)
    assert split is not None
    assert record is not None
    finished = {world.tasks[i] for i in range(0, 24, 2)}
    tested = {group[task] for task in split.tasks}
    assert 3 <= len(split.tasks) <= 8
    assert split.tasks == {task for task in finished if group[task] in tested}
    order = read_order(project.paths.order(record.model_version))
    assert order is not None
    served = order.task_id[np.argsort(order.score)].tolist()
    like = [group[task] in tested for task in served]
    assert any(like)
    assert like == sorted(like), "labels of them could not be trained on: they come last"

    world.label(*(world.tasks.index(task) for task in served))  # now all are finished
    worker.look(world.project_id, force_round=True)
    record = current_round(project.db)
    assert record is not None
    assert record.number == 2
    trained = ModelRegistry(world.settings.data_dir).info(project.id, record.model_version)
    assert set(trained.manifest["train_tasks"]) == {task for task in world.tasks if group[task] not in tested}


def test_a_new_split_keeps_series_whole_too(make_world: MakeWorld) -> None:
    world, group = _grouped(make_world, 16, 4)
    world.label(*range(16))
    world.worker().look(world.project_id)
    project = world.open()
    drawn = step(repartition, project, sorted(finished_digests(project.db)), fraction=0.5)
    sizes = [sum(group[task] == name for task in drawn.tasks) for name in set(group.values())]
    assert sorted(sizes) == [0, 0, 4, 4]


def test_a_single_series_cannot_be_tested_on(make_world: MakeWorld) -> None:
    world, _ = _grouped(make_world, 12, 12)
    world.label(*range(6))
    world.worker().look(world.project_id)
    project = world.open()
    assert newest_split(project.db) is None
    with pytest.raises(BadInput, match="too few series") as raised:
        step(repartition, project, sorted(finished_digests(project.db)))
    assert raised.value.field == "split_by"


def test_series_are_read_from_the_data_of_tasks(make_world: MakeWorld) -> None:
    world, group = _grouped(make_world, 6, 2)
    world.studio.set_task_data(world.tasks[0], {**world.studio.task(world.tasks[0]).data, "plate": ""})
    world.worker().look(world.project_id)
    db = world.open().db
    found = series_of(db, "plate")
    assert found == {task: name for task, name in group.items() if task != world.tasks[0]}
    assert series_of(db, "") == {}
    assert series_of(db, "nothing of the kind") == {}
    assert in_series_of(found, {world.tasks[2]}) == {world.tasks[3]}
    assert in_series_of(found, {world.tasks[0]}) == set()


@pytest.mark.parametrize("seed", range(20))
def test_draws_of_series(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks = list(range(40))
    series = {task: str(int(rng.integers(12))) for task in tasks[:30]}  # ten stand alone
    size = int(rng.integers(1, 20))
    drawn = draw_series(tasks, series, size, rng)
    assert len(drawn) == len(set(drawn))
    assert size <= len(drawn) <= 2 * size
    assert not in_series_of(series, drawn), "whole series"
    assert len({series.get(task, task) for task in tasks} - {series.get(task, task) for task in drawn}) >= 1


def test_a_large_series_is_passed_over() -> None:
    series = dict.fromkeys(range(30), "film")
    for seed in range(10):
        drawn = draw_series(range(40), series, 4, np.random.default_rng(seed))
        assert len(drawn) == 4
        assert min(drawn) >= 30
    assert draw_series(range(30), series, 4, np.random.default_rng(0)) == []


def test_one_series_stays_outside() -> None:
    for seed in range(5):
        assert len(draw_series(range(4), {0: "a"}, 4, np.random.default_rng(seed))) == 3


def test_where_all_series_are_large_the_smallest_is_tested_on() -> None:
    series = {task: str(task // 8) for task in range(2, 34)}  # four of eight and less
    for seed in range(10):
        assert draw_series(range(2, 34), series, 1, np.random.default_rng(seed)) == [32, 33]
        assert draw_series(range(8, 32), series, 2, np.random.default_rng(seed)) == list(range(8, 16))


def test_the_first_split_leaves_most_of_the_finished_tasks_to_training(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks were served at random: one of the large series, one of the small one."""
    world, _ = _grouped(make_world, 20, 16)
    world.label(*range(20))
    uniform = {world.tasks[0], world.tasks[19]}
    monkeypatch.setattr("sync.rounds.test_split.drawn_uniformly", lambda paths: uniform)
    world.worker().look(world.project_id)
    split = newest_split(world.open().db)
    assert split is not None
    assert split.tasks == set(world.tasks[16:])


def test_typical_pictures_of_one_series_stop_no_training(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, group = _grouped(make_world, 12, 6)
    world.label(*range(12))
    uniform = set(world.tasks[:4])
    monkeypatch.setattr("sync.rounds.test_split.drawn_uniformly", lambda paths: uniform)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.trained
    split = newest_split(world.open().db)
    assert split is not None
    assert len({group[task] for task in split.tasks}) == 1
