"""Projects that take part: a new one under an old number, one that is gone, and options checked when set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ml_backend.artifacts.project_facts import load_facts
from ml_backend.errors import BadInput, LeaseLost, StudioError
from ml_backend.kinds.registry import Wanted
from sync.rounds.registration import (
    ProjectChanges,
    check_project_settings,
    compare_project,
    project_ids,
    register_project,
    unregister_project,
)
from sync.rounds.round_records import current_round, trained_round
from sync.settings import Settings
from sync.store.lease import Lease
from sync.store.tables import ProjectRecord, QuestionRecord, RoundRecord, TaskRecord
from sync.studio.protocol import ProjectRow
from sync.worker.loop import Worker
from tests.sync.conftest import World

MASKS = (Wanted("instances", ("cell",)),)
MakeWorld = Callable[..., World]
ROW = ProjectRow(7, "Cells", "<View/>", "", "7.200", 3)


def _record(**changes: Any) -> ProjectRecord:
    values = {"id": 7, "key": "7.200", "title": "Cells", "label_config": "<View/>"}
    return ProjectRecord(**{**values, **changes})


@pytest.mark.parametrize(
    ("record", "on_disk", "expected"),
    [
        (_record(), "7.200", ProjectChanges(is_on_disk=True)),
        (_record(), "", ProjectChanges()),
        (_record(title="Old"), "7.200", ProjectChanges(is_stored=False, is_on_disk=True)),
        (_record(key="7.100"), "7.200", ProjectChanges("7.100", is_stored=False, is_on_disk=True)),
        (_record(label_config="x"), "", ProjectChanges(is_stored=False, has_new_config=True)),
        (_record(key="7.100"), "", ProjectChanges("7.100", is_stored=False)),
        (_record(), "7.100", ProjectChanges("7.100")),
        (None, "", ProjectChanges(is_stored=False, has_new_config=True)),
        (None, "7.100", ProjectChanges("7.100", is_stored=False, has_new_config=True)),
    ],
)
def test_compared_with_store_and_disk(
    record: ProjectRecord | None, on_disk: str, expected: ProjectChanges
) -> None:
    assert compare_project(ROW, record, on_disk) == expected


def _set_up_anew(world: World) -> None:
    """Another project gets the number of ours, with another label config, and tasks of the same numbers."""
    row = world.studio._db["projects"][str(world.project_id)]
    row["created_at"] = datetime(2031, 1, 1, tzinfo=UTC).isoformat()
    row["title"], row["model_version"] = "Another", ""
    world.studio._db["annotations"].clear()
    world.studio._db["predictions"].clear()


def _rows(world: World, table: Any) -> int:
    with world.store.read() as session:
        return session.query(table).count()


def test_a_worker_at_a_project_that_leaves_stops_at_its_next_write(make_world: MakeWorld) -> None:
    world = make_world(3)
    name = f"project/{world.project_id}"
    lease = Lease(world.store, name, "a worker", ttl_s=60.0, heartbeat_s=0.0)
    assert lease.acquire()
    lease.beat()
    unregister_project(world.store, world.project_id)
    with pytest.raises(LeaseLost):
        lease.beat()
    with pytest.raises(LeaseLost), world.store.write(lease.fence) as session:
        session.add(ProjectRecord(id=world.project_id, key="x", title="x", label_config="<View/>"))
    assert project_ids(world.store) == []
    other = Lease(world.store, name, "another", ttl_s=60.0, heartbeat_s=0.0)
    assert other.acquire(), "nobody waits for the first one when the project takes part again"


@pytest.mark.parametrize("how", ["look", "register"])
def test_a_new_project_under_an_old_number_starts_afresh(make_world: MakeWorld, how: str) -> None:
    world = make_world(12)
    world.label(*range(6))
    worker = world.worker()
    worker.look(world.project_id)
    old_key = world.open().db.key
    assert world.open().paths.models.exists()
    _set_up_anew(world)
    if how == "look":
        told = worker.look(world.project_id)
        assert told is not None
        assert f"projects/{old_key}" in told.error
        assert "is a new one" in told.error
    else:
        register_project(world.settings, world.store, world.studio, world.project_id)
    assert (world.settings.data_dir / "projects" / old_key / "models").is_dir()
    assert not world.open().paths.models.exists()
    assert _rows(world, RoundRecord) == _rows(world, TaskRecord) == _rows(world, QuestionRecord) == 0

    report = worker.look(world.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", None)
    assert world.studio.prediction_versions(world.project_id) == {}
    assert world.review_projects() == {}
    assert load_facts(world.settings.data_dir, world.project_id).key == world.open().db.key != old_key
    assert project_ids(world.store) == [world.project_id]


def test_the_folder_of_the_new_project_stays_when_only_the_store_holds_the_old_one(
    make_world: MakeWorld,
) -> None:
    world = make_world(12)
    world.label(*range(6))
    worker = world.worker()
    worker.look(world.project_id)
    with world.store.write() as session:  # a backup of the store, older than the project
        session.get_one(ProjectRecord, world.project_id).key = f"{world.project_id}.5"
    told = worker.look(world.project_id)
    assert told is not None
    assert "is a new one" in told.error
    assert world.open().paths.models.exists()
    assert not (world.settings.data_dir / "projects" / f"{world.project_id}.5").exists()


def test_rows_left_of_another_project_do_not_hold_tasks_of_the_same_number(make_world: MakeWorld) -> None:
    world = make_world(3)
    with world.store.write() as session:
        session.add(
            TaskRecord(
                id=world.tasks[0], project_id=99, data={}, image="old.png", finished=True,
                updated_at=datetime(2030, 1, 1, tzinfo=UTC),
            )
        )  # fmt: skip
    worker = world.worker()
    worker.look(world.project_id)
    with world.store.read() as session:
        task = session.get_one(TaskRecord, world.tasks[0])
    assert (task.project_id, task.finished) == (world.project_id, False)


def test_a_project_that_is_gone_is_named_once_and_not_looked_at_again(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(6)
    worker = world.worker()
    worker.look_at_all()
    kept = world.studio._db["projects"].pop(str(world.project_id))
    (report,) = worker.look_at_all()
    assert "no project" in report.error
    with world.store.read() as session:
        assert "groundswell project remove" in session.get_one(ProjectRecord, world.project_id).error
    calls: Counter[str] = Counter()
    world.studio.before_call = lambda name: calls.update([name])
    assert worker.look_at_all() == []
    assert world.worker().look_at_all() == []
    assert calls == Counter()
    world.studio._db["projects"][str(world.project_id)] = kept
    monkeypatch.setattr("sync.worker.loop._ASK_FOR_GONE_S", 0.0)
    (back,) = worker.look_at_all()
    assert back.error == ""
    assert project_ids(world.store) == [world.project_id]


def test_a_project_that_is_gone_is_logged_once_also_when_it_is_named(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(6)
    worker = Worker(world.settings, world.store, world.studio, only=[world.project_id])
    worker.look_at_all()
    world.studio._db["projects"].pop(str(world.project_id))
    for _ in range(4):
        worker.look_at_all()
    assert [row.levelname for row in caplog.records if "no project" in row.message] == ["ERROR"]


def test_an_error_that_stays_is_logged_once_until_it_is_over(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(6)
    worker = world.worker()

    def away(call: str) -> None:
        raise StudioError("connection refused")

    def logged() -> int:
        return sum("connection refused" in row.message for row in caplog.records)

    for count in (1, 2):
        world.studio.before_call = away
        for _ in range(3):
            worker.look_at_all()
            assert logged() == count
        world.studio.before_call = None
        (report,) = worker.look_at_all()
        assert report.error == ""


def test_a_404_from_a_wrong_address_is_not_taken_for_a_deleted_project(make_world: MakeWorld) -> None:
    world = make_world(6)

    def refuse(call: str) -> None:
        if call == "project":
            raise StudioError("not found", status=404)

    world.studio.before_call = refuse
    worker = world.worker()
    worker.look_at_all()
    assert project_ids(world.store) == [world.project_id]
    assert len(worker.look_at_all()) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"learner": "no-such-learner"}, "learner"),
        ({"learner_options": {"epochs": 3}}, "options.epochs"),
        ({"click_options": {"sizes": 3}}, "options.sizes"),
        ({"policy": "no-such-policy"}, "options.policy_options"),
        ({"policy_options": {"no_such_option": 1}, "policy": "certified"}, "options.policy_options"),
        ({"policy_options": {"no_such_option": 1}, "policy": "original"}, "options.policy_options"),
        ({"policy_options": {"purity": 3}}, "options.policy_options"),
    ],
)
def test_a_typo_in_an_option_is_refused_when_it_is_set(
    make_world: MakeWorld, options: dict[str, Any], field: str
) -> None:
    world = make_world(4)
    with pytest.raises(BadInput) as caught:
        register_project(world.settings, world.store, world.studio, world.project_id, options=options)
    assert caught.value.field == field
    with world.store.read() as session:
        assert session.get_one(ProjectRecord, world.project_id).options == {}
    check_project_settings(world.settings, MASKS)


def test_a_policys_options_are_named_where_it_has_them_not() -> None:
    with pytest.raises(BadInput, match="the policy certified has no option 'min_size'"):
        check_project_settings(Settings(policy="auto", policy_options={"min_size": 6}), MASKS)
    # projects may still name the default by its former name
    check_project_settings(Settings(policy="auto", policy_options={"purity": 0.9}), MASKS)
    check_project_settings(Settings(policy="original", policy_options={"min_size": 6}), MASKS)


def _worker(world: World, **changes: Any) -> Worker:
    return Worker(world.settings.model_copy(update=changes), world.store, world.studio)


def test_a_typo_in_the_environment_begins_no_round_and_its_correction_is_taken(make_world: MakeWorld) -> None:
    world = make_world(10)
    world.label(*range(5))
    wrong = _worker(world, learner_options={"epochs": 3})
    for _ in range(2):
        report = wrong.look(world.project_id)
        assert report is not None
        assert "no such option" in report.error
    assert current_round(world.open().db) is None
    report = _worker(world).look(world.project_id)
    assert report is not None
    assert (report.error, report.round) == ("", 1)


def _killed() -> None:
    raise KeyboardInterrupt


def test_a_round_frozen_with_a_typo_fails_once_and_is_begun_anew_when_it_is_corrected(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(10)
    world.label(*range(5))
    trained: list[object] = []

    def refuse(progress: object, learner: str, spec: Any, folder: object) -> None:
        trained.append(spec.options)
        raise BadInput("there is no such option", field="options.epochs")

    with monkeypatch.context() as patch:
        patch.setattr("sync.rounds.registration.check_options", lambda *_: None)  # as earlier releases did
        patch.setattr("sync.rounds.train._train_in_child", refuse)
        wrong = _worker(world, learner_options={"epochs": 3})
        first, second = wrong.look(world.project_id), wrong.look(world.project_id)
    assert first is not None
    assert second is not None
    assert "no such option" in first.error
    assert second.error == ""
    assert trained == [{"epochs": 3}]
    failed = current_round(world.open().db)
    assert failed is not None
    assert "no such option" in failed.failed
    with monkeypatch.context() as patch:  # killed when the new snapshot is there and its row is not
        patch.setattr("sync.rounds.round_records.utc_now", _killed)
        with pytest.raises(KeyboardInterrupt):
            _worker(world).look(world.project_id)
    report = _worker(world).look(world.project_id)
    assert report is not None
    assert report.error == ""
    record = trained_round(world.open().db)
    assert record is not None
    assert (record.number, record.failed) == (1, "")
    assert record.digest != failed.digest
