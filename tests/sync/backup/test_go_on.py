"""Backups taken in the middle of a worker's work: whatever the moment, a restored one goes on as if nothing
had happened, whether Label Studio stands where it stood then or has gone on since."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sync.backup.backup import backup
from sync.backup.restore import restore
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import Lease
from tests.fakes.label_studio import FakeStudio
from tests.sync.conftest import World
from tests.sync.exchange.test_export_status import dump_store

MakeWorld = Callable[..., World]
_DONE = 6


def _seen_by_people(world: World) -> dict[str, Any]:
    """Everything that must be the same in the end, however it came about."""
    studio, store = world.studio, dump_store(world.store)
    reviews = world.review_projects().values()
    return {
        "predictions": {
            task: [(row.model_version, round(row.score, 5), row.result) for row in studio.predictions(task)]
            for task in world.tasks
        },
        "labels": {task: [a.result for a in studio.task(task).annotations] for task in world.tasks},
        "reviews": [sorted(studio.task_ids(number)) for number in reviews],
        "projects": len(studio.projects()),
        **{name: rows for name, rows in store.items() if name != "rounds"},
        "rounds": [row[:5] for row in store["rounds"]],
    }


def _studio_now(world: World, copied: Path) -> Path:
    """The whole Label Studio as it stands, in a file of its own."""
    shutil.copyfile(world.folder / "studio.json", copied)
    return copied


def _restored(world: World, archive: Path, folder: Path, studio: FakeStudio) -> World:
    """The same project on another folder, from a backup; Label Studio as ``studio`` has it."""
    other = copy.copy(world)
    other.studio = studio
    values = {name: getattr(world.settings, name) for name in world.settings.model_fields_set}
    other.settings = Settings(**{**values, **world.empty_place(), "data_dir": folder})
    restore(other.settings, archive)
    other.store = Store(other.settings.database())
    return other


def _settle(world: World) -> None:
    """Look and answer until two looks find nothing to do.

    A store from before the first question learns of its review projects by asking; its next look reads them.
    """
    quiet = 0
    for _ in range(12):
        report = world.worker().look(world.project_id)
        assert report is not None
        assert report.error == ""
        quiet = quiet + 1 if report.review is not None and report.review.done else 0
        if quiet == 2:
            return
        world.answer_all()
    pytest.fail("there is always something to do")


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(12, in_file=True, infer_part=4, push_rows=3)
    world.label(*range(_DONE))
    return world


@pytest.mark.slow
def test_every_moment_of_a_round_goes_on_from_its_backup(world: World, tmp_path: Path) -> None:
    archives: dict[str, tuple[Path, Path]] = {}

    def at_a_checkpoint(place: str) -> None:
        if place not in archives:  # the worker holds its lease, and writes again right after
            path = tmp_path / f"{len(archives)}.tar"
            backup(world.settings, path)
            archives[place] = path, _studio_now(world, path.with_suffix(".json"))

    for _ in range(12):
        report = world.worker(at_a_checkpoint).look(world.project_id)
        assert report is not None
        assert report.error == ""
        if report.review is not None and report.review.done:
            break
        world.answer_all()
    expected = _seen_by_people(world)
    assert {len(rows) for rows in expected["predictions"].values()} == {0, 1}
    assert {"train", "infer", "cluster", "push"} <= {place.partition(".")[0] for place in archives}

    for number, (place, (archive, then)) in enumerate(list(archives.items())[::2]):
        end = FakeStudio(_studio_now(world, tmp_path / f"end{number}.json"))
        later = _restored(world, archive, tmp_path / f"later{number}", end)
        _settle(later)
        assert _seen_by_people(later) == expected, f"Label Studio had gone on: {place}"
        later.store.close()
        if number % 5 == 0:  # the same work once more, which takes its time
            now = _restored(world, archive, tmp_path / f"now{number}", FakeStudio(then))
            _settle(now)
            found = _seen_by_people(now)
            for what in ("predictions", "labels", "projects", "questions", "rounds"):
                assert found[what] == expected[what], f"{what}: {place}"
            now.store.close()


def test_labels_made_after_the_backup_are_pulled_and_a_next_round_is_trained(
    world: World, tmp_path: Path
) -> None:
    world.review_to_the_end()
    backup(world.settings, tmp_path / "b.tar.gz", models="needed")
    world.label(7, 8, 9)
    world.studio.delete_tasks(world.project_id, [world.tasks[11]])
    shutil.rmtree(world.settings.data_dir / "projects")  # the disk broke

    other = _restored(world, tmp_path / "b.tar.gz", tmp_path / "new", world.studio)
    for name in ("images", "embeddings"):
        assert not (other.settings.data_dir / name).exists()
    before = world.studio.prediction_versions(world.project_id)
    report = other.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    assert world.studio.prediction_versions(world.project_id).keys() >= before.keys()
    with other.store.read():
        rows = dump_store(other.store)["tasks"]
    assert [task for task, finished, _ in rows if finished] == [
        world.tasks[n] for n in (*range(_DONE), 7, 8, 9)
    ]
    assert world.tasks[11] not in [task for task, *_ in rows]

    values = {name: getattr(other.settings, name) for name in other.settings.model_fields_set}
    other.settings = Settings(**{**values, "retrain_after": 1})
    other.review_to_the_end()
    assert [row[0] for row in dump_store(other.store)["rounds"]] == [1, 2]
    shown = {len(world.studio.predictions(task)) for task in world.tasks[:11]}
    assert shown == {0, 1}, "no task has two predictions"
    other.store.close()


def test_a_worker_of_before_the_backup_cannot_write_into_what_was_restored(
    world: World, tmp_path: Path
) -> None:
    lease = Lease(world.store, "project/1", "zombie", ttl_s=600, heartbeat_s=0)
    assert lease.acquire()
    backup(world.settings, tmp_path / "b.tar")
    other = _restored(world, tmp_path / "b.tar", tmp_path / "new", world.studio)
    successor = Lease(other.store, "project/1", "another", ttl_s=600, heartbeat_s=0)
    assert successor.acquire()
    assert successor.fence.number > lease.fence.number + 1000
    other.store.close()
