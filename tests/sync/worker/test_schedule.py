"""Jobs that would never come again: clocks that were wrong, projects that come back, errors of one kind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from ml_backend.errors import BadInput, LeaseLost, StorageError
from sync.rounds.registration import refresh_project, register_project, unregister_project
from sync.store.database import database_now
from sync.store.lease import Lease, training_lease
from sync.store.schedule import KINDS, Kind, Schedule
from sync.store.tables import JobRecord, LeaseRecord, ProjectRecord
from sync.worker.loop import Worker
from sync.worker.notices import Notices
from tests.sync.conftest import CONFIG_XML, World

MakeWorld = Callable[..., World]


def schedule_of(world: World) -> Schedule:
    made = Schedule(world.store, world.settings, "a worker")
    made.fill()
    return made


def do(schedule: Schedule, kind: Kind, again_s: float | None) -> bool:
    """Take a job and put it off; whether there was one."""
    claim = schedule.claim(kind)
    if claim is None:
        return False
    schedule.conclude(claim, again_s=again_s)
    claim.lease.release()
    return True


def error_of(world: World) -> str:
    with world.store.read() as session:
        return session.get_one(ProjectRecord, world.project_id).error


@pytest.mark.parametrize("kind", KINDS)
def test_a_clock_that_was_a_year_ahead_stops_no_job(make_world: MakeWorld, database: str, kind: Kind) -> None:
    world = make_world(4, database_url=database)
    schedule = schedule_of(world)
    with world.store.write() as session:
        for job in session.scalars(select(JobRecord)):
            job.next_at = database_now(session) + timedelta(days=365)
    assert do(schedule, kind, 3600.0)
    assert not do(schedule, kind, 3600.0), "an hour is a usual time to wait"


def test_a_worker_that_died_under_a_clock_ahead_holds_nothing(make_world: MakeWorld, database: str) -> None:
    world = make_world(4, database_url=database)
    dead = Lease(world.store, f"project/{world.project_id}", "dead", ttl_s=60, heartbeat_s=0)
    assert dead.acquire()
    with world.store.write() as session:
        row = session.get_one(LeaseRecord, f"project/{world.project_id}")
        row.heartbeat_at += timedelta(days=365)
    assert do(schedule_of(world), "sync", None)
    with pytest.raises(LeaseLost), world.store.write(dead.fence):
        pass


def test_a_job_that_is_held_elsewhere_keeps_no_other_waiting(make_world: MakeWorld, database: str) -> None:
    world = make_world(4, database_url=database)
    other = world.studio.create_project("Others", CONFIG_XML).id
    register_project(world.settings, world.store, world.studio, other)
    schedule = schedule_of(world)
    first = schedule.claim("sync")
    assert first is not None
    with world.store.write() as session:  # it has waited longest
        job = session.get_one(JobRecord, f"project/{first.project_id}")
        job.next_at = database_now(session) - timedelta(hours=1)
    second = Schedule(world.store, world.settings, "another").claim("sync")
    assert second is not None
    assert second.project_id != first.project_id
    first.lease.release()
    second.lease.release()


def test_a_project_that_comes_back_is_looked_at_now(make_world: MakeWorld) -> None:
    world = make_world(4)
    schedule = schedule_of(world)
    assert do(schedule, "sync", 3600.0)  # Label Studio had it no more
    assert not do(schedule, "sync", None)
    register_project(world.settings, world.store, world.studio, world.project_id)
    assert do(schedule, "sync", None)


def test_a_training_that_waits_for_another_try_is_not_called_for(make_world: MakeWorld) -> None:
    schedule = schedule_of(world := make_world(4))
    assert do(schedule, "train", 60.0)
    schedule.call("train", world.project_id)
    assert not do(schedule, "train", None)


def test_a_project_that_left_meanwhile_gets_no_jobs(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(4)
    schedule = Schedule(world.store, world.settings, "a worker")
    seen = schedule.projects()
    unregister_project(world.store, world.project_id)
    monkeypatch.setattr(schedule, "projects", lambda: seen)
    schedule.fill()
    assert not any(do(schedule, kind, None) for kind in KINDS)


def test_a_new_project_under_an_old_number_ends_the_training_of_the_old_one(make_world: MakeWorld) -> None:
    world = make_world(4)
    training = training_lease(world.store, world.settings, world.project_id, "trainer")
    assert training.acquire()
    with world.store.write() as session:  # the server was set up anew
        session.get_one(ProjectRecord, world.project_id).key = "1.1"
    project = world.open()
    with pytest.raises(BadInput, match="is a new one"):
        refresh_project(project.db, project.studio, project.paths)
    with pytest.raises(LeaseLost), world.store.write(training.fence):
        pass
    training.release()


def test_why_a_training_fails_is_shown_while_looks_go_well(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(8, poll_s=0.001)
    world.label(*range(6))
    worker = Worker(world.settings, world.store, world.studio)
    worker._schedule.fill()

    def full(*_: object) -> None:
        raise StorageError("no space is left")

    assert worker.take_turn("sync")
    with monkeypatch.context() as patch:
        patch.setattr("sync.worker.loop.train_round", full)
        assert worker.take_turn("train")
    assert "no space" in error_of(world)
    assert worker.take_turn("sync")
    assert "training: no space" in error_of(world), "a look says nothing about the training beside it"
    assert worker.take_turn("train")
    assert error_of(world) == ""


def test_a_folder_that_cannot_be_read_stops_no_other_project(tmp_path: Path) -> None:
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "1").write_text("a file in place of a folder")
    notices = Notices(tmp_path)
    assert notices.new([1, 2]) == []
    assert not notices.is_there([1, 2])
    (tmp_path / "projects" / "2").mkdir()
    (tmp_path / "projects" / "2" / "dirty").write_text("now")
    assert notices.new([1, 2]) == [2]
