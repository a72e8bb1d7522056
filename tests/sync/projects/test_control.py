"""Pause, resume, a round that is asked for, other options, and leaving: what the worker then does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from ml_backend.artifacts.project_facts import load_facts
from ml_backend.errors import BadInput, StudioError
from sync.projects.control import pause, remove, request_round, resume, set_options
from sync.projects.rebuild import rebuild
from sync.review.outbox import NewAnswer, put_answer, waiting
from sync.rounds.registration import project_ids, register_project
from sync.rounds.round_records import current_round
from sync.rounds.wanted_version import forget_wanted_version, note_wanted_version, wanted_version
from sync.rounds.wishes import forget_wanted_round
from sync.store.database import utc_now
from sync.store.lease import Lease
from sync.store.review_tables import OutboxRecord
from sync.store.tables import AnswerRecord, ProjectRecord, QuestionRecord, RoundRecord, TaskRecord
from sync.worker.look import LookReport
from tests.sync.conftest import World

MakeWorld = Callable[..., World]


def _record(world: World) -> ProjectRecord:
    with world.store.read() as session:
        return session.get_one(ProjectRecord, world.project_id)


def _count(world: World, table: Any) -> int:
    with world.store.read() as session:
        return session.query(table).count()


def _look(world: World) -> LookReport:
    found = world.worker().look(world.project_id)
    assert found is not None
    assert found.error == ""
    return found


def _args(world: World) -> tuple[Any, Any, int]:
    return world.settings, world.store, world.project_id


def test_no_new_questions_while_asking_is_paused(make_world: MakeWorld) -> None:
    world = make_world(20, question_batch=5, review_form="single")
    world.label(*range(6))
    first = _look(world)
    assert first.review is not None
    assert first.review.asked > 0
    assert pause(*_args(world), "asking") is True
    assert pause(*_args(world), "asking") is False
    asked = _count(world, QuestionRecord)
    world.answer_all()
    paused = _look(world)
    assert paused.review is not None
    assert (paused.paused, paused.review.new, paused.review.open) == ("asking", 0, 0)
    assert paused.review.answered == first.review.asked  # open questions could be answered, and count
    assert paused.review.done is False
    assert _count(world, QuestionRecord) == asked
    assert load_facts(world.settings.data_dir, world.project_id).paused == "asking"

    assert resume(*_args(world)) is True
    assert resume(*_args(world)) is False
    after = _look(world)
    assert after.review is not None
    assert after.review.new > 0


def test_a_paused_project_is_read_and_nothing_else(make_world: MakeWorld) -> None:
    world = make_world(12, review_form="single")
    world.label(*range(6))
    _look(world)
    pause(*_args(world), "all")
    writes: list[str] = []
    reading = {"project", "projects", "tasks", "task", "task_ids", "task_times", "task_values", "task_data"}
    world.studio.before_call = lambda name: None if name in reading else writes.append(name)
    rounds = _count(world, RoundRecord)
    world.studio.before_call, hook = None, world.studio.before_call
    answered = world.answer_all(limit=2)
    world.label(*range(6, 12))
    world.studio.before_call = hook
    for _ in range(2):
        found = _look(world)
        assert (found.paused, found.trained, found.pushed, found.review) == ("all", "", None, None)
    assert writes == []
    assert _count(world, RoundRecord) == rounds
    assert _count(world, AnswerRecord) == answered == 2
    with world.store.read() as session:
        assert session.query(TaskRecord).filter(TaskRecord.finished.is_(True)).count() == 12
    refused = world.worker().look(world.project_id, force_round=True)
    assert refused is not None
    assert "is paused" in refused.error
    with pytest.raises(BadInput, match="is paused"):
        request_round(*_args(world))


def test_a_round_that_is_asked_for_starts_at_the_next_look_once(make_world: MakeWorld) -> None:
    world = make_world(12, early_s=0.0)
    world.label(*range(6))
    assert _look(world).round == 1
    world.label(6)
    assert _look(world).round == 1  # one new task is not enough
    assert request_round(*_args(world)) is True
    assert request_round(*_args(world)) is False
    found = _look(world)
    assert found.round == 2
    assert found.trained
    assert _record(world).round_wanted is None
    assert _look(world).round == 2


def test_a_wish_is_fulfilled_by_a_round_that_began_after_it(make_world: MakeWorld) -> None:
    """As after a kill between the beginning of the round and the end of the wish."""
    world = make_world(12, early_s=0.0)
    world.label(*range(6))
    _look(world)
    newest = current_round(world.open().db)
    assert newest is not None
    with world.store.write() as session:
        session.get_one(ProjectRecord, world.project_id).round_wanted = newest.started_at - timedelta(
            seconds=1
        )
    assert _look(world).round == 1
    assert _record(world).round_wanted is None


def test_a_wish_noted_by_a_clock_that_is_ahead_starts_one_round(make_world: MakeWorld) -> None:
    world = make_world(12, early_s=0.0)
    world.label(*range(6))
    _look(world)
    with world.store.write() as session:
        session.get_one(ProjectRecord, world.project_id).round_wanted = utc_now() + timedelta(hours=1)
    assert _look(world).round == 2
    assert _look(world).round == 2
    assert _record(world).round_wanted is None


def test_a_round_that_fails_is_not_tried_at_every_look(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(12, early_s=0.0)
    world.label(*range(6))
    _look(world)
    request_round(*_args(world))
    tried: list[int] = []

    def fail(*_: object) -> None:
        from ml_backend.errors import ModelError

        tried.append(1)
        raise ModelError("no memory")

    monkeypatch.setattr("sync.rounds.train._train_in_child", fail)
    worker = world.worker()
    for _ in range(4):
        worker.look(world.project_id)
    assert _record(world).round_wanted is None
    assert len(tried) == 1


def test_the_end_of_one_wish_leaves_a_later_one(make_world: MakeWorld) -> None:
    world = make_world(2)
    now = utc_now()
    with world.store.write() as session:
        session.get_one(ProjectRecord, world.project_id).round_wanted = now
    project = world.open()
    forget_wanted_round(project.db, now - timedelta(seconds=1))
    assert _record(world).round_wanted == now
    forget_wanted_round(project.db, now)
    assert _record(world).round_wanted is None
    note_wanted_version(project.db, "gs1-r2-b")
    forget_wanted_version(project.db, "gs1-r1-a")
    assert wanted_version(project.db) == "gs1-r2-b"
    forget_wanted_version(project.db, "gs1-r2-b")
    assert wanted_version(project.db) == ""


def test_nothing_can_be_trained_without_a_finished_task(make_world: MakeWorld) -> None:
    world = make_world(4)
    _look(world)
    with pytest.raises(BadInput, match="no finished task"):
        request_round(*_args(world))
    assert _record(world).round_wanted is None


def test_options_are_merged_and_told(make_world: MakeWorld) -> None:
    world = make_world(4)
    told = set_options(*_args(world), {"retrain_after": 7, "crowd": True})
    changes = {change.name: (change.old, change.new, change.new_is_own) for change in told}
    assert changes["retrain_after"] == (20, 7, True)
    assert changes["review_overlap_max"] == (1, 5, False)  # comes with crowd
    assert _record(world).options == {"retrain_after": 7, "crowd": True}
    told = set_options(*_args(world), {"seed": 3}, unset=["crowd"], dry_run=True)
    assert {change.name for change in told} >= {"seed", "crowd", "gold_share"}
    assert _record(world).options == {"retrain_after": 7, "crowd": True}
    set_options(*_args(world), {"seed": 3}, unset=["crowd"])
    assert _record(world).options == {"retrain_after": 7, "seed": 3}
    assert set_options(*_args(world), {"seed": 3}) == ()


@pytest.mark.parametrize(
    ("changes", "unset", "field"),
    [
        ({"min_finished": 1}, [], "min_finished"),
        ({"no_such_option": 1}, [], "no_such_option"),
        ({}, ["data_dir"], "data_dir"),
        ({"seed": 1}, ["seed"], "seed"),
        ({"policy_options": {"purity": 3}}, [], "policy_options"),
        ({"ideal_class_balance": {"cat": 1.0}}, [], "ideal_class_balance"),
    ],
)
def test_wrong_options_change_nothing(
    make_world: MakeWorld, changes: dict[str, Any], unset: list[str], field: str
) -> None:
    world = make_world(4)
    set_options(*_args(world), {"retrain_after": 7})
    with pytest.raises(BadInput) as caught:
        set_options(*_args(world), changes, unset=unset)
    assert field in caught.value.field
    assert _record(world).options == {"retrain_after": 7}


def test_a_project_that_left_and_comes_back_finds_its_things(make_world: MakeWorld) -> None:
    world = make_world(12, review_form="single")
    world.studio.connect_backend(
        world.project_id, world.settings.backend_url, title="Groundswell", basic_auth=None
    )
    world.studio.ensure_webhook(world.project_id, f"{world.settings.backend_url}/webhook", secret="s")
    set_options(*_args(world), {"retrain_after": 7})
    world.label(*range(6))
    before = _look(world)
    predictions = world.studio.prediction_versions(world.project_id)
    questions = _count(world, QuestionRecord)

    done = remove(*_args(world)[:2], world.studio, world.project_id)
    assert (done.disconnected, done.problem, done.files_deleted) == (2, "", False)
    assert project_ids(world.store) == []
    assert world.studio.prediction_versions(world.project_id) == predictions
    assert world.worker().look_at_all() == []
    with pytest.raises(BadInput, match="does not take part"):
        remove(*_args(world)[:2], world.studio, world.project_id)

    register_project(world.settings, world.store, world.studio, world.project_id)
    assert _record(world).options == {"retrain_after": 7}
    again = _look(world)
    assert (again.round, again.trained) == (before.round, "")
    assert world.studio.prediction_versions(world.project_id) == predictions
    assert _count(world, QuestionRecord) == questions


def test_files_are_deleted_only_when_asked_and_when_no_worker_is_at_it(make_world: MakeWorld) -> None:
    world = make_world(12)
    world.label(*range(6))
    _look(world)
    paths = world.open().paths
    lease = Lease(world.store, f"project/{world.project_id}", "another", ttl_s=60, heartbeat_s=0)
    assert lease.acquire()
    with pytest.raises(BadInput, match="another works on"):
        remove(*_args(world)[:2], world.studio, world.project_id, files=True)
    assert project_ids(world.store) == [world.project_id]
    lease.release()
    remove(*_args(world)[:2], world.studio, world.project_id, files=True)
    assert not paths.root.exists()
    assert _count(world, RoundRecord) == _count(world, TaskRecord) == _count(world, ProjectRecord) == 0
    assert len(world.studio.task(world.tasks[0]).annotations) == 1


@pytest.mark.parametrize("is_gone", [False, True])
def test_answers_that_wait_outlive_the_files(make_world: MakeWorld, is_gone: bool) -> None:
    world = make_world(4)
    for task, written in ((world.tasks[0], 0), (world.tasks[1], 1)):
        answer = NewAnswer(
            uuid=str(task), mode="questions", project_id=world.project_id, task_id=task, form="single",
            label="disc", value={"value": "yes"}, suggested=(), result=[], is_skip=False, seconds=1.0,
        )  # fmt: skip
        with world.store.write() as session:
            put_answer(session, "ana", 1, answer, utc_now()).written = written
    if is_gone:
        world.studio.delete_project(world.project_id)
    remove(*_args(world)[:2], world.studio, world.project_id, files=True)
    with world.store.read() as session:
        assert waiting(session).count == (0 if is_gone else 1)
        kept = list(session.scalars(select(OutboxRecord.task_id)))
    assert kept == ([] if is_gone else [world.tasks[0]])


def test_a_project_can_leave_while_label_studio_is_away(make_world: MakeWorld) -> None:
    world = make_world(4)

    def away(call: str) -> None:
        raise StudioError("connection refused")

    world.studio.before_call = away
    done = remove(*_args(world)[:2], world.studio, world.project_id)
    assert "connection refused" in done.problem
    assert project_ids(world.store) == []


def test_a_lost_store_does_not_end_a_pause(make_world: MakeWorld) -> None:
    world = make_world(8)
    world.label(*range(6))
    _look(world)
    pause(*_args(world), "asking")
    set_options(*_args(world), {"seed": 5})
    _look(world)
    with world.store.write() as session:
        session.delete(session.get_one(ProjectRecord, world.project_id))
    (report,) = rebuild(world.settings, world.store, world.studio)
    assert report.error == ""
    assert (_record(world).paused, _record(world).options) == ("asking", {"seed": 5})


def test_options_set_by_two_at_once_both_stay(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from sync.projects import option_changes

    world = make_world(2)
    plain, calls = option_changes.check_balance, list[int]()

    def check(*given: Any) -> None:
        plain(*given)
        calls.append(1)
        if len(calls) == 1:  # another command comes between look and change
            option_changes.set_options(world.settings, world.store, world.project_id, {"seed": 4})

    monkeypatch.setattr(option_changes, "check_balance", check)
    option_changes.set_options(world.settings, world.store, world.project_id, {"retrain_after": 7})
    with world.store.read() as session:
        assert session.get_one(ProjectRecord, world.project_id).options == {"seed": 4, "retrain_after": 7}
