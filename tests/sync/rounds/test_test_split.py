"""Numbered test splits: a new one holds from the next round on, and no model is judged on what it learnt."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.pools import read_pool
from ml_backend.errors import BadInput
from sync.projects.rebuild import rebuild
from sync.rounds.known_masks import load_known_masks
from sync.rounds.project import OpenProject
from sync.rounds.round_records import current_round, load_snapshot
from sync.rounds.task_queries import finished_digests
from sync.rounds.test_split import newest_split, repartition, restore_test_splits
from sync.store.tables import RoundRecord
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _draw(project: OpenProject, fraction: float | None = None) -> set[int]:
    finished = sorted(finished_digests(project.db))
    drawn = step(repartition, project, finished, fraction=fraction)
    assert newest_split(project.db) == drawn
    return set(drawn.tasks)


def _record(project: OpenProject) -> RoundRecord:
    record = current_round(project.db)
    assert record is not None
    return record


def _known(project: OpenProject, record: RoundRecord) -> set[int]:
    known = step(load_known_masks, project, record, LABELS)
    return set() if known is None else set(known.pictures.tolist())


def test_a_round_keeps_its_split_and_the_next_one_has_the_new_one(make_world: MakeWorld) -> None:
    world = make_world(24, test_fraction=0.3)
    world.label(*range(10))
    worker = world.worker()
    worker.look(world.project_id)
    project = world.open()
    first = _record(project)
    old = newest_split(project.db)
    assert old is not None
    assert (old.number, len(old.tasks), first.split) == (1, 3, 1)
    new = _draw(project, 0.5)
    assert len(new) == 5
    assert new - old.tasks, "drawn from all finished tasks"
    worker.look(world.project_id)  # nothing was trained: all that is known rests on the old split
    record = _record(project)
    assert (record.number, record.split) == (1, 1)
    assert _known(project, record) == old.tasks
    worker.look(world.project_id, force_round=True)
    record = _record(project)
    assert (record.number, record.split) == (2, 2)
    assert _known(project, record) == new
    info = ModelRegistry(world.settings.data_dir).info(project.id, record.model_version)
    assert not new & set(info.manifest["train_tasks"])
    assert old.tasks - new <= set(info.manifest["train_tasks"])
    assert info.manifest["split"] == 2
    table = read_pool(project.paths.pool(record.model_version))
    assert set(table.task_id.tolist()) == new | set(world.tasks[10:])


def test_a_training_never_starts_from_a_version_of_another_split(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(8))
    worker = world.worker()
    starts = []
    for number in (1, 2, 3, 4):
        worker.look(world.project_id, force_round=number > 1)
        snapshot = load_snapshot(world.open().paths, number)
        starts.append((snapshot["split"], snapshot["start"].partition("-")[2][:2]))
        if number == 2:
            _draw(world.open())
    assert starts == [(1, ""), (1, "r1"), (2, ""), (2, "r3")]


def test_splits_come_back_from_their_file(make_world: MakeWorld) -> None:
    world = make_world(16)
    world.label(*range(8))
    world.worker().look(world.project_id)
    project = world.open()
    tasks = _draw(project)
    world.worker().look(world.project_id, force_round=True)
    before = (_known(project, _record(project)), newest_split(project.db))
    (report,) = rebuild(world.settings, world.store, world.studio)
    assert report.error == ""
    project = world.open()
    record = _record(project)
    assert record.split == 2
    assert (_known(project, record), newest_split(project.db)) == before
    assert before[0] == tasks
    # an older release wrote one split without a number
    path = project.paths.root / "split.json"
    path.write_text(json.dumps({"test": json.loads(path.read_text())["splits"][0]["test"]}))
    assert step(restore_test_splits, project) == 1


def test_a_split_drawn_by_a_killed_command_holds(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(16)
    world.label(*range(8))
    world.worker().look(world.project_id)
    project = world.open()
    with monkeypatch.context() as patched:
        patched.setattr("sync.rounds.test_split.restore_test_splits", lambda db, paths: 0)
        drawn = step(repartition, project, sorted(finished_digests(project.db)))
    assert newest_split(project.db) != drawn, "killed between file and store"
    world.worker().look(world.project_id, force_round=True)
    assert newest_split(project.db) == drawn
    assert _record(project).split == 2


def test_what_cannot_be_drawn_is_refused(make_world: MakeWorld) -> None:
    world = make_world(6)
    project = world.open()
    with pytest.raises(BadInput, match="0 finished tasks"):
        _draw(project)
    world.label(*range(5))
    world.worker().look(world.project_id)
    with pytest.raises(BadInput, match="no share"):
        _draw(project, 1.5)
    assert len(_draw(project, 0.99)) == 2, "half of the tasks at most"
