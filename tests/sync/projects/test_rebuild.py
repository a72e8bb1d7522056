"""Rebuild reads Label Studio and changes nothing there; it leaves projects alone that a worker holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from ml_backend.errors import BadInput
from sync.projects.rebuild import rebuild
from sync.store.lease import Lease, project_lease, training_lease
from sync.store.tables import LeaseRecord, TaskRecord
from tests.sync.conftest import World

MakeWorld = Callable[..., World]
READS = {"project", "projects", "tasks", "task", "task_ids", "task_times", "task_values", "task_data"}


def test_label_studio_is_only_read(make_world: MakeWorld) -> None:
    world = make_world(20, question_batch=4)
    world.label(*range(6))
    world.worker().look(world.project_id)
    world.answer_all(limit=2)  # the review would ask again now
    world.label(6, 7)  # and withdraw, and push
    calls: Counter[str] = Counter()
    world.studio.before_call = lambda name: calls.update([name])
    (report,) = rebuild(world.settings, world.store, world.studio)
    assert report.error == ""
    assert calls
    assert set(calls) <= READS
    world.studio.before_call = None
    assert world.worker().look(world.project_id) is not None, "its lease is given back"


@pytest.mark.parametrize("lease_of", [project_lease, training_lease])
def test_a_project_that_a_worker_holds_is_not_rebuilt(
    make_world: MakeWorld, lease_of: Callable[..., Lease]
) -> None:
    world = make_world(6)
    worker = world.worker()
    worker.look(world.project_id)
    lease = lease_of(world.store, world.settings, world.project_id, "a worker")
    assert lease.acquire()
    with lease, pytest.raises(BadInput) as caught:
        rebuild(world.settings, world.store, world.studio)
    assert "a worker" in str(caught.value)
    with world.store.read() as session:
        assert session.scalar(select(func.count()).select_from(TaskRecord)) == 6
        assert session.get_one(LeaseRecord, f"project/{world.project_id}").holder == ""


def test_a_round_noted_by_a_newer_version_is_brought_back(make_world: MakeWorld) -> None:
    world = make_world(12)
    world.label(*range(6))
    world.worker().look(world.project_id)
    file = world.open().paths.round(1) / "round.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "of_a_newer_version": 1}))
    (report,) = rebuild(world.settings, world.store, world.studio)
    assert (report.error, report.rounds) == ("", 1)
