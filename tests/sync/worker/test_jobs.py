"""Looks and training side by side: what goes on while a project trains, who takes which job, how it ends."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select
from typer.testing import CliRunner

from ml_backend.artifacts.inbox import mark_dirty
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import LeaseLost
from ml_backend.log_fields import add_log_fields, set_log_fields
from sync.cli import build_app
from sync.projects.control import pause, request_round
from sync.rounds.registration import register_project
from sync.rounds.round_records import current_round, served_round, trained_round
from sync.store.database import database_now
from sync.store.lease import Lease, training_lease
from sync.store.schedule import Kind, Schedule
from sync.store.tables import (
    AnnotationRecord,
    AnswerRecord,
    JobRecord,
    LeaseRecord,
    RoundRecord,
)
from sync.worker.look import LookReport
from sync.worker.loop import Worker
from sync.worker.observer import Observer, Observers
from sync.worker.signs import SignsOfLife, worker_health
from tests.sync.conftest import CONFIG_XML, World

MakeWorld = Callable[..., World]
_WAIT_S = 60.0


def worker_of(world: World, **more: Any) -> Worker:
    made = Worker(world.settings, world.store, world.studio, **more)
    made._schedule.fill()
    return made


def turn(worker: Worker, kind: Any = "sync") -> bool:
    """One job of this kind, due now."""
    with worker._store.write() as session:
        for job in session.scalars(select(JobRecord)):
            if job.next_at is not None:
                job.next_at = job.next_at.replace(year=2020)
    return worker.take_turn(kind)


def newest(world: World) -> RoundRecord:
    found = current_round(world.open().db)
    assert found is not None
    return found


def verdicts(world: World) -> int:
    """Verdicts of the first round that are on disk."""
    return len(read_verdicts(world.open().paths.round(1)))


@contextmanager
def in_training(world: World) -> Iterator[threading.Event]:
    """A training of the world's begun round that stands still until the event is set, or the block ends."""
    stands, goes_on = threading.Event(), threading.Event()

    def stand(place: str) -> None:
        if place == "train.start":
            stands.set()
            assert goes_on.wait(_WAIT_S)

    trainer = worker_of(world, checkpoint=stand)
    thread = threading.Thread(target=turn, args=(trainer, "train"))
    thread.start()
    try:
        assert stands.wait(_WAIT_S)
        yield goes_on
    finally:
        goes_on.set()
        thread.join(_WAIT_S)
    assert not thread.is_alive()


def begun(make_world: MakeWorld, **more: Any) -> World:
    """A project whose first round is in review and whose second one was begun and is not trained."""
    world = make_world(16, retrain_after=2, question_batch=4, poll_s=0.01, **more)
    world.label(*range(6))
    looks = worker_of(world)
    assert turn(looks)
    assert turn(looks, "train")
    assert turn(looks)
    assert world.review_projects()
    world.label(6, 7)
    assert turn(looks)
    assert (newest(world).number, newest(world).step) == (2, "start")
    return world


@pytest.fixture
def second_round(make_world: MakeWorld) -> World:
    return begun(make_world)


def test_while_a_project_trains_its_people_and_other_projects_are_served(
    make_world: MakeWorld, database: str
) -> None:
    world = begun(make_world, database_url=database)
    looks = worker_of(world)
    with in_training(world) as goes_on:
        before = verdicts(world)
        asked = world.answer_all()
        assert asked
        world.label(8)
        assert turn(looks)
        with world.store.read() as session:
            assert len(session.scalars(select(AnswerRecord.id)).all()) >= asked, "answers are counted"
            drawn = session.scalars(select(AnnotationRecord.task_id)).all()
            assert world.tasks[8] in drawn, "a finished annotation is pulled"
        assert verdicts(world) > before, "and become verdicts"
        assert newest(world).step == "start", "the training still stands"

        other = world.studio.create_project("Others", CONFIG_XML).id
        register_project(world.settings, world.store, world.studio, other)
        tasks = sorted(world.studio.upload_images(other, sorted(world.images.iterdir())[:8]))
        for i, task in enumerate(tasks[:6]):
            world.studio.create_annotation(task, world.scenes[i].result(), lead_time_s=20.0)
        trainer = worker_of(world, only=[other])
        for kind in ("sync", "train", "sync"):
            assert turn(trainer, kind)
        assert list(world.studio.prediction_versions(other).values()) == [2], (
            "a whole round of another project"
        )
        goes_on.set()
    assert newest(world).step == "train"
    assert turn(looks)
    assert turn(looks)
    served = served_round(world.open().db)
    assert served is not None
    assert served.number == 2
    assert next(iter(world.studio.prediction_versions(world.project_id))).startswith(served.model_version)


def test_a_round_in_training_is_left_alone(second_round: World) -> None:
    world = second_round
    before = newest(world)
    with in_training(world):
        request_round(world.settings, world.store, world.project_id)
        world.label(9, 10, 11)
        world.settings = world.settings.model_copy(update={"seed": 5})  # the round would be begun anew
        looks = worker_of(world)
        assert turn(looks)
        assert not turn(worker_of(world), "train"), "nobody trains it a second time"
        assert worker_of(world).look(world.project_id, force_round=True) is None
        now = newest(world)
        assert (now.number, now.digest, now.updated_at) == (before.number, before.digest, before.updated_at)
    assert newest(world).step == "train"
    assert newest(world).model_version == before.model_version


def test_a_look_beside_training_never_trains(make_world: MakeWorld) -> None:
    world = make_world(8, poll_s=0.01)
    world.label(*range(6))
    looks = worker_of(world, jobs=["sync"])
    for _ in range(3):
        assert turn(looks)
    assert ModelRegistry(world.settings.data_dir).versions(world.project_id) == []
    assert newest(world).step == "start"
    assert worker_of(world, jobs=["train"]).look_at_all()[0].trained == newest(world).model_version


def test_a_failed_training_waits_and_a_wish_ends_the_wait(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(8, poll_s=0.01)
    world.label(*range(6))
    both = worker_of(world)
    monkeypatch.setenv("TINY_FAIL", "1")
    for kind in ("sync", "train"):
        assert turn(both, kind)
    assert "told to fail" in newest(world).failed
    assert turn(both)
    turn(both, "train")
    assert newest(world).figures["train"]["attempts"] == 1, "it waits"
    request_round(world.settings, world.store, world.project_id)
    for kind in ("sync", "train", "sync", "sync"):
        turn(both, kind)
    assert newest(world).figures["train"]["attempts"] == 2, "one try for one wish"
    turn(both, "train")
    assert newest(world).figures["train"]["attempts"] == 2
    monkeypatch.delenv("TINY_FAIL")
    request_round(world.settings, world.store, world.project_id)
    for kind in ("sync", "train"):
        turn(both, kind)
    assert (newest(world).number, newest(world).step) == (1, "train")


def test_a_paused_project_is_not_trained(second_round: World) -> None:
    pause(second_round.settings, second_round.store, second_round.project_id, "all")
    assert turn(worker_of(second_round), "train")
    assert newest(second_round).step == "start"


def test_a_long_first_inference_leaves_the_review_of_the_round_before(
    second_round: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = second_round
    worker = worker_of(world)
    assert turn(worker, "train")
    monkeypatch.setattr("sync.worker.look.INFER_S", 0.0)  # a look ends its part after one batch
    world.settings = world.settings.model_copy(update={"infer_batch": 2})
    worker = worker_of(world)
    before = verdicts(world)
    shown = world.studio.project(world.project_id).model_version
    asked = world.answer_all()
    assert turn(worker)
    assert newest(world).step == "train", "its model has not looked at all tasks"
    assert verdicts(world) > before
    with world.store.read() as session:
        assert len(session.scalars(select(AnswerRecord.id)).all()) >= asked > 0
    registry = ModelRegistry(world.settings.data_dir)
    served = served_round(world.open().db)
    assert served is not None
    assert served.number == 1
    assert registry.current(world.project_id) == served.model_version
    assert all(
        name.startswith(served.model_version) for name in world.studio.prediction_versions(world.project_id)
    )
    assert shown.startswith(served.model_version)
    for _ in range(8):
        assert turn(worker)
    assert registry.current(world.project_id) == newest(world).model_version
    trained = trained_round(world.open().db)
    assert trained is not None
    assert trained.figures["infer"]["tasks"] == 8 + 2  # open ones, and the test split: each once
    assert len(world.studio.prediction_versions(world.project_id)) == 1


def test_a_trainer_that_was_taken_for_dead_writes_nothing(second_round: World) -> None:
    world = second_round
    with in_training(world):
        with world.store.write() as session:  # silent for too long
            row = session.get_one(LeaseRecord, f"project/{world.project_id}/train")
            row.heartbeat_at = row.heartbeat_at.replace(year=2020)
        assert turn(worker_of(world), "train"), "another one trains it"
        after = newest(world)
        assert after.step == "train"
    again = newest(world)
    assert (again.step, again.failed, again.updated_at) == ("train", "", after.updated_at)


def test_the_files_of_a_training_need_its_lease(second_round: World) -> None:
    world = second_round
    lease = training_lease(world.store, world.settings, world.project_id, "first")
    assert lease.acquire()
    worker = worker_of(world)
    with worker._opened(world.project_id, "train", lease) as project:
        with world.store.write() as session:
            session.get_one(LeaseRecord, f"project/{world.project_id}/train").fence += 1
        registry = ModelRegistry(world.settings.data_dir)
        with pytest.raises(LeaseLost):
            registry.publish(world.project_id, "gs1-r2-x", lambda folder: {}, guard=project.db.guard)
        assert "gs1-r2-x" not in [info.version for info in registry.versions(world.project_id)]
    lease.release()


def test_two_workers_do_no_job_twice(make_world: MakeWorld, database: str) -> None:
    world = make_world(4, database_url=database, poll_s=600.0)
    for _ in range(11):
        other = world.studio.create_project("Others", CONFIG_XML).id
        register_project(world.settings, world.store, world.studio, other)
    workers = [worker_of(world), worker_of(world)]
    taken: list[int] = []
    held: list[Lease] = []

    def work(worker: Worker) -> None:
        while (claim := worker._schedule.claim("sync")) is not None:
            taken.append(claim.project_id)
            held.append(claim.lease)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_WAIT_S)
    # one that saw its row taken in the same moment ends early; what is left is due still
    work(workers[0])
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == 12
    for lease in held:
        lease.release()


def test_rows_that_another_worker_is_taking_are_skipped(
    make_world: MakeWorld, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.store.database._BUSY_TIMEOUT_MS", 2000)
    world = make_world(4, database_url=postgres_url)
    other = world.studio.create_project("Others", CONFIG_XML).id
    register_project(world.settings, world.store, world.studio, other)
    schedule = worker_of(world)._schedule
    with world.store.write(shared=True) as session:
        due = schedule._due("sync", database_now(session)).with_for_update()
        first = session.scalar(due)
        assert first is not None
        claim = schedule.claim("sync")
        assert claim is not None
        assert claim.project_id != first.project_id
        claim.lease.release()
        assert schedule.claim("sync") is None


def test_a_job_that_is_held_is_not_taken_and_one_that_is_called_for_comes_at_once(
    make_world: MakeWorld, database: str
) -> None:
    world = make_world(4, database_url=database, poll_s=600.0)
    first, second = worker_of(world)._schedule, worker_of(world)._schedule
    claim = first.claim("sync")
    assert claim is not None
    second.call("sync", world.project_id)
    assert second.claim("sync") is None, "called for, and held"
    first.conclude(claim, again_s=600.0)
    claim.lease.release()
    again = second.claim("sync")
    assert again is not None, "the call during the look is heeded"
    second.conclude(again, again_s=600.0)
    again.lease.release()
    assert first.claim("sync") is None
    first.call("sync", world.project_id)
    last = first.claim("sync")
    assert last is not None
    first.conclude(last, again_s=None)
    last.lease.release()


def test_a_dead_worker_is_followed_by_another(make_world: MakeWorld, database: str) -> None:
    world = make_world(4, database_url=database, poll_s=0.01)
    dead = Lease(world.store, f"project/{world.project_id}", "dead", ttl_s=60, heartbeat_s=0)
    assert dead.acquire()
    schedule = worker_of(world)._schedule
    assert schedule.claim("sync") is None
    with world.store.write() as session:
        row = session.get_one(LeaseRecord, f"project/{world.project_id}")
        row.heartbeat_at = row.heartbeat_at.replace(year=2020)
    claim = schedule.claim("sync")
    assert claim is not None
    with pytest.raises(LeaseLost), world.store.write(dead.fence):
        pass
    claim.lease.release()


def test_a_project_that_left_has_no_jobs(make_world: MakeWorld) -> None:
    from sync.rounds.registration import unregister_project

    world = make_world(4)
    schedule = worker_of(world)._schedule
    unregister_project(world.store, world.project_id)
    schedule.fill()
    assert schedule.claim("sync") is None
    with world.store.read() as session:
        assert session.scalars(select(JobRecord)).all() == []


@pytest.fixture
def running(make_world: MakeWorld) -> Iterator[tuple[World, Worker, threading.Thread]]:
    """A worker that runs on; looks come every ten minutes unless somebody calls."""
    world = make_world(8, poll_s=600.0)
    worker = Worker(world.settings, world.store, world.studio)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield world, worker, thread
    worker.stop()
    thread.join(_WAIT_S)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_notice_brings_a_whole_round_and_a_stop_leaves_no_lease(
    running: tuple[World, Worker, threading.Thread],
) -> None:
    world, worker, thread = running
    until(lambda: world.open().db.read is not None and _pulled(world))
    world.label(*range(6))
    mark_dirty(world.settings.data_dir, world.project_id, "ANNOTATION_CREATED")
    until(lambda: list(world.studio.prediction_versions(world.project_id).values()) == [2])
    worker.stop()
    thread.join(_WAIT_S)
    assert not thread.is_alive()
    with world.store.read() as session:
        assert [row.holder for row in session.scalars(select(LeaseRecord))] == ["", ""]


def _pulled(world: World) -> bool:
    with world.store.read() as session:
        job = session.get(JobRecord, f"project/{world.project_id}")
        lease = session.get(LeaseRecord, f"project/{world.project_id}")
    return job is not None and lease is not None and lease.holder == "" and lease.fence > 0


def test_dropped_jobs_come_back(make_world: MakeWorld) -> None:
    world = make_world(4)
    worker = worker_of(world)
    with world.store.write() as session:
        session.execute(delete(JobRecord))
    worker._schedule.fill()
    assert worker.take_turn("sync")


def test_a_bug_in_one_thread_ends_the_worker(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would look alive and do half of its work; a service manager starts it again."""
    worker = make_world(4).worker()

    def broken(schedule: Schedule, kind: str) -> None:
        if kind == "train":
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Schedule, "claim", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        worker.run()


def test_a_thread_that_hangs_is_left_behind(make_world: MakeWorld) -> None:
    world = make_world(4, stop_s=0.05)
    hangs, ends = threading.Event(), threading.Event()

    def hang(place: str) -> None:
        hangs.set()
        assert ends.wait(_WAIT_S)

    worker = Worker(world.settings, world.store, world.studio, checkpoint=hang)
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(worker.run()))
    thread.start()
    try:
        assert hangs.wait(_WAIT_S)
        worker.stop()
        thread.join(_WAIT_S / 2)
        assert ended == [False]
    finally:
        ends.set()
        thread.join(_WAIT_S)


def test_a_process_whose_thread_hangs_ends_all_the_same() -> None:
    code = (
        "import time; from concurrent.futures import ThreadPoolExecutor; "
        "from sync.commands.worker import _leave; ThreadPoolExecutor(1).submit(time.sleep, 600); _leave()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=_WAIT_S)


@pytest.mark.parametrize("all_ended", [True, False])
def test_the_command_ends_at_once_where_a_thread_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_ended: bool
) -> None:
    said: list[list[Path]] = []
    monkeypatch.setattr("sync.report.running_on.look_at_machine", lambda: None)
    monkeypatch.setattr("sync.report.running_on.running_on", lambda *_: [])
    monkeypatch.setattr("sync.worker.loop.Worker.install_signal_handlers", lambda self: None)
    monkeypatch.setattr("sync.worker.loop.Worker.run", lambda self: all_ended)
    signs = tmp_path / "workers"
    monkeypatch.setattr("sync.commands.worker._leave", lambda: said.append(list(signs.iterdir())))
    words = ["worker", "--studio-url", "http://127.0.0.1:9", "--api-key", "k", "--data-dir", str(tmp_path)]
    assert CliRunner().invoke(build_app(), words).exit_code == 0
    assert said == ([] if all_ended else [[]]), "what it keeps while it lives is tidied up before"


class _Heard(Observer):
    """Counts signs of life by kind of work, and keeps what became of trainings."""

    def __init__(self) -> None:
        self.alive_of: Counter[str] = Counter()
        self.trainings: list[LookReport] = []

    def alive(self, kind: Kind, project_id: int | None) -> None:
        self.alive_of[kind] += 1

    def trained(self, project_id: int, found: LookReport) -> None:
        self.trainings.append(found)


def test_a_look_that_hangs_is_seen_while_the_other_thread_waits(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.worker.loop._IDLE_S", 0.01)
    world = make_world(4)
    hangs, ends = threading.Event(), threading.Event()

    def hang(place: str) -> None:
        hangs.set()
        assert ends.wait(_WAIT_S)

    now = [1_700_000_000.0]
    signs = SignsOfLife(world.settings.data_dir, 10.0, now=lambda: now[0])
    heard = _Heard()
    observer = Observers([signs, heard])
    worker = Worker(world.settings, world.store, world.studio, checkpoint=hang, observer=observer)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert hangs.wait(_WAIT_S)
        now[0] += 1000.0
        before = heard.alive_of["train"]
        until(lambda: heard.alive_of["train"] > before + 1)
        signs.write()
        health = worker_health(world.settings.data_dir, stuck_s=100.0, now=lambda: now[0])
        assert not health.ok
        assert "sync jobs have not moved" in health.line
    finally:
        worker.stop()
        ends.set()
        thread.join(_WAIT_S)


def test_a_training_that_repeats_itself_does_not_move(second_round: World) -> None:
    heard = _Heard()
    lease = training_lease(second_round.store, second_round.settings, second_round.project_id, "first")
    worker = worker_of(second_round, observer=heard)
    with worker._opened(second_round.project_id, "train", lease) as project:
        for share in (0.1, 0.2, 0.2, 0.2):  # the training process stands still, and is listened to
            project.progress.report("train", share, f"{share:.0%}")
            project.progress.checkpoint("train.progress")
    assert heard.alive_of["train"] == 2


def test_a_training_that_fails_is_told(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(8, poll_s=0.01)
    world.label(*range(6))
    heard = _Heard()
    both = worker_of(world, observer=heard)
    monkeypatch.setenv("TINY_FAIL", "1")
    assert turn(both)
    assert turn(both, "train")
    assert "told to fail" in heard.trainings[-1].error


def test_lines_between_jobs_speak_of_no_project(make_world: MakeWorld) -> None:
    world = make_world(4)
    set_log_fields(project=None, round=None)
    assert turn(worker_of(world))
    record = logging.LogRecord("x", logging.INFO, "x", 1, "sync jobs: the store is away", (), None)
    add_log_fields(record)
    assert not hasattr(record, "project")
