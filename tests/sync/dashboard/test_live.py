"""What the dashboard shows while a worker looks: the progress file, steps, time left, silence, pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import StorageError
from sync.dashboard.collect import project_record
from sync.dashboard.live import LiveState, live_state
from sync.dashboard.render import status_line
from sync.projects.control import pause, request_round
from sync.rounds.live_progress import LiveProgress, ProgressFile, read_progress
from sync.rounds.round_records import finish_step, update_round
from sync.store.lease import Lease
from sync.store.tables import LeaseRecord, RoundRecord
from sync.worker.loop import Worker
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


def live(world: World) -> LiveState:
    return live_state(world.settings, world.store, project_record(world.store, world.project_id))


def held(world: World, holder: str = "w") -> Lease:
    name = f"project/{world.project_id}"
    lease = Lease(world.store, name, holder, ttl_s=world.settings.lease_ttl_s, heartbeat_s=0)
    assert lease.acquire()
    return lease


def paths(world: World) -> ProjectPaths:
    return ProjectPaths(world.settings.data_dir, world.project_id)


def clock(*moments: float) -> Callable[[], float]:
    left = iter(moments)
    return lambda: next(left)


def test_the_file_is_written_at_most_twice_a_second_and_says_when_the_look_is_over(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    file = ProgressFile(path, "w", now=clock(100.0, 100.1, 100.6, 100.7, 101.3, 102.0))
    file.report("pull", 0.0, "first")
    assert read_progress(path) is None
    file.report("train", 0.1, "second")
    expected = LiveProgress("w", "train", 0.1, "second", 100.6, 100.0, 100.6)
    assert read_progress(path) == expected
    file.report("train", 0.2, "too soon")
    assert read_progress(path) == expected
    file.report("train", 0.3, "third")
    assert read_progress(path) == replace(expected, share=0.3, line="third", at=101.3)
    file.close()
    over = read_progress(path)
    assert over is not None
    assert (over.step, over.at) == ("", 102.0)


def test_a_quick_look_leaves_no_file(make_world: MakeWorld) -> None:
    world = make_world(4)
    path = tmp = paths(world).progress
    file = ProgressFile(path, "w", now=clock(1.0, 1.1))
    file.report("pull", 1.0, "nothing new")
    file.close()
    assert not tmp.exists()


def test_a_disk_that_is_full_stops_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr("sync.rounds.live_progress.write_atomic", full)
    file = ProgressFile(tmp_path / "progress.json", "w", now=clock(1.0, 2.0, 3.0))
    file.report("train", 0.5, "half")
    file.close()


@pytest.mark.parametrize("text", ["", "[]", '{"step": "train"}', '{"worker": 1}'])
def test_a_damaged_file_is_no_progress(tmp_path: Path, text: str) -> None:
    path = tmp_path / "progress.json"
    path.write_text(text)
    assert read_progress(path) is None


def test_a_worker_tells_its_steps_while_it_looks(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.rounds.live_progress._EVERY_S", 0.0)
    world = make_world(12, question_budget=0)
    world.label(*range(6))
    seen: list[LiveState] = []

    def report(project: int, step: str, share: float, text: str) -> None:
        seen.append(live(world))

    Worker(world.settings, world.store, world.studio, report=report).look(world.project_id)
    steps = list(dict.fromkeys(state.step for state in seen))
    assert [step for step in steps if step in ("train", "infer", "cluster", "push")] == [
        "train", "infer", "push", "cluster"
    ]  # fmt: skip
    assert all(state.at_work and not state.interrupted for state in seen)
    infer = next(state for state in seen if state.step == "infer")
    assert {step.name: step.state for step in infer.steps} == {
        "train": "done", "infer": "now", "cluster": "next", "review": "next", "push": "next"
    }  # fmt: skip
    after = live(world)
    assert (after.at_work, after.interrupted, after.step) == (False, False, "")
    assert {step.state for step in after.steps} == {"done"}
    assert status_line(after) == "Waiting for finished tasks."


def _round(world: World, number: int, **seconds: float) -> None:
    now = project_record(world.store, world.project_id).pulled_at
    assert now is not None
    with world.store.write() as session:
        session.add(
            RoundRecord(
                project_id=world.project_id, number=number, model_version=f"v{number}", digest="d",
                step="push" if seconds else "start", finished_tasks=5, started_at=now, updated_at=now,
                figures={name: {"seconds": value} for name, value in seconds.items()},
            )
        )  # fmt: skip


def _running(world: World, step: str, share: float, *, elapsed: float, worker: str = "w") -> None:
    now = time.time()
    state = ProgressFile(paths(world).progress, worker)
    state._write(LiveProgress(worker, step, share, "a line", now - elapsed, now - elapsed, now))


def test_time_left_follows_from_the_pace_and_from_earlier_rounds(make_world: MakeWorld) -> None:
    world = make_world(4)
    world.worker().look(world.project_id)
    for number, train in ((1, 100.0), (2, 300.0), (3, 200.0)):
        _round(world, number, train=train, infer=40.0, push=10.0)
    _round(world, 4)
    with held(world):
        _running(world, "train", 0.25, elapsed=60.0)
        state = live(world)
        assert (state.step, state.share, state.line, state.round) == ("train", 0.25, "a line", 4)
        assert state.left_s == pytest.approx(180.0 + 40.0 + 10.0, abs=2.0)
        assert state.left_from == "the pace of this step, earlier rounds"
        _running(world, "train", 0.0, elapsed=30.0)
        assert live(world).left_s == pytest.approx(170.0 + 50.0, abs=2.0)
        _running(world, "cluster", 0.5, elapsed=8.0)
        assert live(world).left_s == pytest.approx(8.0, abs=2.0)
        _running(world, "review", 0.0, elapsed=1.0)
        assert live(world).left_s is None


def test_the_first_round_has_only_its_own_pace(make_world: MakeWorld) -> None:
    world = make_world(4)
    world.worker().look(world.project_id)
    _round(world, 1)
    with held(world):
        _running(world, "train", 0.0, elapsed=1.0)
        assert live(world).left_s is None
        _running(world, "train", 0.5, elapsed=10.0)
        state = live(world)
        assert state.left_s == pytest.approx(10.0, abs=1.0)
        assert state.left_from == "the pace of this step, without the steps after it"


def test_a_worker_that_was_killed_is_not_shown_as_busy(make_world: MakeWorld) -> None:
    world = make_world(4)
    world.worker().look(world.project_id)
    _round(world, 1)
    held(world, "dead")
    _running(world, "train", 0.5, elapsed=10.0, worker="dead")
    assert live(world).step == "train"
    with world.store.write() as session:
        row = session.get_one(LeaseRecord, f"project/{world.project_id}")
        row.heartbeat_at -= timedelta(seconds=world.settings.lease_ttl_s + 1)
    state = live(world)
    assert (state.at_work, state.interrupted, state.step) == (False, True, "")
    assert "goes on from there" in status_line(state)
    with held(world, "next"):
        assert live(world).step == "", "what the dead one wrote is not what this one does"


def test_failed_and_asking_steps_pauses_and_wishes_are_said(make_world: MakeWorld) -> None:
    world = make_world(24, policy="verify-all")
    world.label(*range(6))
    world.worker().look(world.project_id)
    state = live(world)
    assert {step.name: step.state for step in state.steps}["review"] == "asking"
    assert status_line(state) == "Waiting for answers and finished tasks."
    request_round(world.settings, world.store, world.project_id)
    assert "Next: a round was asked for at" in status_line(live(world))
    pause(world.settings, world.store, world.project_id, "asking")
    assert "Asking is paused" in status_line(live(world))
    pause(world.settings, world.store, world.project_id, "all")
    assert status_line(live(world)).startswith("Paused: nothing is trained")
    project = world.open()
    _round(world, 2)
    update_round(project.db, project.paths, 2, failed="no memory")
    assert live(world).steps[0].state == "failed"
    finish_step(project.db, project.paths, 2, "train", {"seconds": 1.0})
    assert live(world).steps[0].state == "done"
