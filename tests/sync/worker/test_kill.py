"""kill -9 of a worker process while it trains, pushes and asks: nothing is lost, nothing doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ml_backend.artifacts.model_versions import ModelRegistry
from sync.store.tables import QuestionRecord, SplitRecord
from tests.fakes.label_studio import FakeStudio
from tests.sync.conftest import World
from tests.sync.exchange.test_export_status import dump_store
from tests.sync.kill_driver import wait_for_leases

MakeWorld = Callable[..., World]
_HERE = Path(__file__).parents[1]
_ROOT = _HERE.parent.parent


def start_worker(world: World, **extra: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{_HERE / 'kill_site'}:{_ROOT}",
        "OMP_NUM_THREADS": "1",
        **extra,
    }
    return subprocess.Popen(
        [sys.executable, str(_HERE / "kill_driver.py"), str(world.folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not (path.exists() and path.read_text()):  # there, and written
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


def look_once(world: World) -> dict[str, Any]:
    """One look of a worker process, and what it reports."""
    child = start_worker(world)
    out, complaints = child.communicate(timeout=300)
    assert child.returncode == 0, out + complaints
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def _look(world: World) -> bool:
    """One look of a worker in this process, which saves the start of one; True when the review is done."""
    wait_for_leases(world.store, world.settings.lease_ttl_s)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return bool(report.review and report.review.done)


def write_world(world: World, options: dict[str, Any]) -> None:
    """What the worker process must know of a world."""
    settings = {
        **options,
        "data_dir": str(world.settings.data_dir),
        "database_url": world.settings.database(),
        "artifacts_url": world.settings.artifacts_url,
        "signing_key": world.settings.signing_key.get_secret_value(),
        "allow_image_dirs": world.settings.allow_image_dirs,
        "learner": world.settings.learner,
        "push_interval_s": 0.0,
    }
    (world.folder / "world.json").write_text(json.dumps({"project": world.project_id, "settings": settings}))


def _make(make_world: MakeWorld, name: str, **more: Any) -> World:
    """A project with six finished tasks on a fake Label Studio that lives in a file."""
    options = {
        **more,
        "infer_part": 4,
        "push_rows": 3,
        "lease_ttl_s": 4.0,
        "heartbeat_s": 0.3,
    }
    world = make_world(16, name=name, in_file=True, **options)
    world.label(*range(6))
    write_world(world, options)
    return world


def _correct_a_label(world: World) -> None:
    """A person takes a region out of a finished task.

    Of none of the test split: its pictures are lessons, and when these change, a review that has begun takes
    its questions back, which one that begins later never asked.
    """
    with world.store.read() as session:
        split = set(session.scalars(select(SplitRecord.task_id)))
    assert split
    number = next(i for i, task in enumerate(world.tasks) if task not in split)
    annotation = world.studio.task(world.tasks[number]).annotations[0]
    world.studio.update_annotation(annotation.id, world.scenes[number].result()[:-1])


def _finish(world: World) -> dict[str, Any]:
    """Look and answer until the review is done; then everything people can see."""
    for _ in range(12):
        if _look(world):
            break
        world.answer_all()
    else:
        raise AssertionError("the review never ended")
    studio = world.studio
    tasks = sorted(studio.task_ids(world.project_id))
    return {
        "shown": studio.project(world.project_id).model_version,
        "versions": studio.prediction_versions(world.project_id),
        "predictions": {
            task: [(row.model_version, round(row.score, 5), row.result) for row in studio.predictions(task)]
            for task in tasks
        },
        "labels": {task: [a.result for a in studio.task(task).annotations] for task in tasks},
        "store": {name: rows for name, rows in dump_store(world.store).items() if name != "rounds"},
        "rounds": [row[:5] for row in dump_store(world.store)["rounds"]],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [{}, {"policy": "original", "policy_options": {"min_size": 8, "sample": 8}}],
    ids=["usual", "original"],
)
def test_kill_9_in_train_push_and_review_changes_nothing_in_the_end(
    make_world: MakeWorld, postgres_url: str, policy: dict[str, Any]
) -> None:
    calm = _make(make_world, "calm", **policy)
    assert not _look(calm)
    _correct_a_label(calm)
    expected = _finish(calm)
    for name, database in (("sqlite", ""), ("postgres", postgres_url)):
        world = _make(make_world, f"killed-{name}", database_url=database, **policy)
        _kill_at_every_step(world)
        found = _finish(world)
        assert {task: len(rows) for task, rows in found["predictions"].items()} == {
            task: int(number >= 6) for number, task in enumerate(world.tasks)
        }
        for what, value in expected.items():
            assert found[what] == value, (name, what)


def _kill_at_every_step(world: World) -> None:
    """Worker processes are killed in a training, in a push, and between asking and writing that down.

    After each kill another process goes on, which is killed in turn.
    """
    marker = world.folder / "training"
    child = start_worker(world, TINY_MARK=str(marker), TINY_SLEEP_S="600")
    wait_for(marker, child)
    training = int(marker.read_text())
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    world.studio = FakeStudio(world.folder / "studio.json")
    _correct_a_label(world)  # people go on working while the worker is dead
    wait_for_end(training)
    assert ModelRegistry(world.settings.data_dir).versions(world.project_id) == []

    _kill(world, BLOCK_AT="push.chunk:2")
    counts = world.studio.prediction_versions(world.project_id)
    assert list(counts.values()) == [3], "one of several chunks was sent"

    _kill(world, BLOCK_AFTER="import_tasks:1")
    assert world.review_projects()
    with world.store.read() as session:
        assert not session.scalars(select(QuestionRecord)).all(), "asked, and not yet written down"


def _kill(world: World, **where: str) -> None:
    """Kill a worker process at that place. The world's fake is read again."""
    blocked = world.folder / "blocked"
    blocked.unlink(missing_ok=True)
    child = start_worker(world, **where)
    wait_for(blocked, child)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    world.studio = FakeStudio(world.folder / "studio.json")


def wait_for_end(training: int) -> None:
    """Wait until the training process has noticed that its worker is gone."""
    until = time.monotonic() + 30
    while _is_alive(training):
        assert time.monotonic() < until, "the training process outlived its worker"
        time.sleep(0.05)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process}/stat").read_text().split(")")[-1].split()[0]
