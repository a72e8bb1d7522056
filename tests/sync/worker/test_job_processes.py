"""A worker process that trains beside its looks: told to stop, killed, and paused for too long."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from ml_backend.artifacts.model_versions import ModelRegistry
from sync.store.tables import JobRecord, LeaseRecord, RoundRecord
from sync.worker.loop import Worker
from tests.sync.conftest import World
from tests.sync.worker.test_jobs import newest, turn, until
from tests.sync.worker.test_kill import start_worker, wait_for, wait_for_end, write_world

MakeWorld = Callable[..., World]
Place = tuple[World, "subprocess.Popen[str]", int]
pytestmark = pytest.mark.slow


@pytest.fixture
def training(make_world: MakeWorld, request: pytest.FixtureRequest, database: str) -> Iterator[Place]:
    """A world, a worker process that runs on, and the number of its slow training process."""
    sleep_s, ttl_s, every_s = getattr(request, "param", (600, 5.0, 0.3))
    options = {"lease_ttl_s": ttl_s, "heartbeat_s": every_s, "poll_s": every_s, "database_url": database}
    world = make_world(8, in_file=True, **options)
    world.label(*range(5))
    write_world(world, options)
    marker = world.folder / "training"
    environment = {
        "TINY_MARK": str(marker),
        "TINY_SLEEP_S": str(sleep_s),
        "INSTALL_SIGNALS": "1",
        "RUN_ON": "1",
    }
    child = start_worker(world, **environment)
    try:
        wait_for(marker, child)
        yield world, child, int(marker.read_text())
    finally:
        child.kill()
        child.communicate()


def checkpoint_of(world: World) -> Path:
    """A checkpoint of the round in training, as a learner would leave one."""
    path = world.open().paths.models / f".training-{newest(world).model_version}" / "last.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("half way")
    return path


def fence_of_looks(world: World) -> int:
    """Grows with each look."""
    with world.store.read() as session:
        return session.get_one(LeaseRecord, f"project/{world.project_id}").fence


def holders(world: World) -> list[str]:
    with world.store.read() as session:
        return [row.holder for row in session.scalars(select(LeaseRecord))]


def is_taken_over(world: World) -> bool:
    return turn(another(world), "train")


def another(world: World) -> Worker:
    made = Worker(world.settings, world.store, world.studio)
    with world.store.write() as session:
        for job in session.scalars(select(JobRecord)):
            job.next_at = job.next_at or session.scalars(select(RoundRecord.started_at)).one()
    return made


@pytest.mark.parametrize("training", [(600, 60.0, 0.3)], indirect=True)
def test_a_worker_that_is_told_to_stop_keeps_the_checkpoint_and_leaves_no_lease(training: Place) -> None:
    world, child, number = training
    checkpoint = checkpoint_of(world)
    looks = fence_of_looks(world)
    until(lambda: fence_of_looks(world) > looks + 1)  # looks go on, and leave the training alone
    os.kill(number, signal.SIGTERM)  # a service manager tells the whole group
    child.send_signal(signal.SIGTERM)
    _, complaints = child.communicate(timeout=60)
    assert child.returncode == 0, complaints
    wait_for_end(number)
    assert checkpoint.exists()
    assert (newest(world).step, newest(world).failed) == ("start", "")
    assert set(holders(world)) == {""}


def test_a_killed_training_is_taken_over_with_its_checkpoint(
    training: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, child, number = training
    checkpoint = checkpoint_of(world)
    seen: list[bool] = []
    from tests.sync import tiny_learner

    learn = tiny_learner.TinyLearner.train

    def noted(*given: object) -> object:
        seen.append(checkpoint.exists())
        return learn(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny_learner.TinyLearner, "train", noted)
    os.kill(child.pid, signal.SIGKILL)
    wait_for_end(number)
    until(lambda: is_taken_over(world))
    assert seen == [True]
    assert newest(world).step == "train"
    assert not checkpoint.exists()


# no heartbeats and no looks: the pause must not come inside a write and keep the database busy
@pytest.mark.parametrize("training", [(2, 8.0, 600.0)], indirect=True)
def test_a_worker_that_was_paused_while_it_trained_writes_nothing(training: Place) -> None:
    world, child, number = training
    os.kill(child.pid, signal.SIGSTOP)
    try:
        until(lambda: is_taken_over(world))
        after = newest(world)
        assert after.step == "train"
        manifest = ModelRegistry(world.settings.data_dir).info(world.project_id, after.model_version).manifest
    finally:
        os.kill(child.pid, signal.SIGCONT)
    wait_for_end(number)
    child.send_signal(signal.SIGTERM)
    _, complaints = child.communicate(timeout=60)
    assert child.returncode == 0, complaints
    again = newest(world)
    assert (again.failed, again.figures["train"]) == ("", after.figures["train"])
    versions = ModelRegistry(world.settings.data_dir).versions(world.project_id)
    assert [version.manifest for version in versions] == [manifest]
