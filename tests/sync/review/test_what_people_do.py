"""What people do at a bad moment or with review tasks: no answer is lost, no review stands still."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

import sync.review
from clustering.search import POLICIES, make_policy
from ml_backend.app import create_app
from sync.projects.rebuild import rebuild
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.answers import pull_answers
from sync.review.fingerprint import _SETTINGS, review_fingerprint
from sync.review.review import ReviewReport, review
from sync.rounds.round_records import trained_round
from sync.store.tables import AnswerRecord, ProjectRecord, QuestionRecord, TaskRecord
from tests.sync.conftest import World, answer_result, read_questions
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _reviewing(make_world: MakeWorld, **options: Any) -> World:
    world = make_world(20, **{"review_form": "single", **options})
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return world


def _look(world: World) -> ReviewReport:
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    return step(review, project, record)


def _single(world: World) -> int:
    return world.review_projects()["single"]


def _answers(world: World) -> list[AnswerRecord]:
    with world.store.read() as session:
        return list(session.scalars(select(AnswerRecord).order_by(AnswerRecord.id)))


def _questions(world: World) -> list[QuestionRecord]:
    with world.store.read() as session:
        return list(session.scalars(select(QuestionRecord).order_by(QuestionRecord.id)))


def _figures(world: World) -> dict[str, Any]:
    record = step(trained_round, world.open())
    assert record is not None
    found: dict[str, Any] = record.figures["review"]
    return found


def _finish(world: World) -> ReviewReport:
    for _ in range(40):
        report = _look(world)
        if report.done:
            return report
        world.answer_all()
    raise AssertionError("the review never ended")


def _set_data(world: World, task: int, data: dict[str, Any]) -> None:
    row = world.studio._get("tasks", task)
    row["data"] = data
    world.studio._touch(row)


# ---- answers that come while questions are withdrawn ------------------------------------------------------


def test_an_answer_that_comes_while_its_question_is_withdrawn_is_kept(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, retrain_after=2, question_batch=8)
    stale = sorted(world.studio.task_ids(_single(world)))
    late = world.studio.as_user("late@example.com", "x")
    given: list[int] = []

    def answer_first(name: str) -> None:
        if name in ("delete_tasks", "close_task") and not given:
            given.append(0)
            for task in stale:  # people submit between our last look and our call
                _, (question,) = read_questions(late.task(task).data)
                good = world.is_good(question)
                given.append(late.create_annotation(task, answer_result("single", [good])).id)

    world.studio.before_call = answer_first
    world.label(18, 19)
    worker = world.worker()
    for _ in range(2):
        report = worker.look(world.project_id)
        assert report is not None
        assert (report.error, report.round) == ("", 2)
    assert len(given) == len(stale) + 1
    assert set(stale) <= world.studio.task_ids(_single(world))
    assert {answer.annotation_id for answer in _answers(world)} == set(given[1:])
    assert _figures(world)["carried"] > 0


def test_a_withdrawn_question_is_served_to_nobody_even_after_a_skip(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, retrain_after=2, question_batch=8)
    stale = sorted(world.studio.task_ids(_single(world)))
    world.label(18, 19)
    assert world.worker().look(world.project_id) is not None
    served = world.studio.next_task(_single(world))
    assert served is not None
    assert served.id not in stale
    other = world.studio.as_user("other@example.com", "x")
    other.create_annotation(stale[0], [], was_cancelled=True)
    _look(world)
    assert world.studio.task(stale[0]).is_labeled


# ---- review tasks that were edited ------------------------------------------------------------------------


def test_a_question_with_a_field_of_a_newer_version_keeps_its_answers(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=8)
    world.answer_all()
    before = _look(world)
    for task in world.studio.tasks(_single(world)):
        meta = dict(task.data["groundswell"])
        meta["questions"] = [{**question, "added_later": {"x": 1}} for question in meta["questions"]]
        _set_data(world, task.id, {**task.data, "groundswell": meta})
    (report,) = rebuild(world.settings, world.store, world.studio)
    assert report.error == ""
    after = _look(world)
    assert (after.answered, after.accepted) == (before.answered, before.accepted)
    assert len(_answers(world)) == before.answered


def test_a_review_task_that_cannot_be_read_is_reported_and_keeps_what_is_known(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=8)
    world.answer_all()
    before = _look(world)
    broken = min(world.studio.task_ids(_single(world)))
    data = dict(world.studio.task(broken).data)
    _set_data(world, broken, {**data, "groundswell": {"form": "single", "questions": [{"key": "x"}]}})
    after = _look(world)
    assert after.answered == before.answered
    (row,) = _figures(world)["unreadable"]
    assert row["review_task"] == broken
    assert "task_id" in row["reason"] or "project_id" in row["reason"]
    text = "\n".join(status_lines(status(world.settings, world.store)))
    assert f"review task {broken}" in text
    _set_data(world, broken, data)
    _look(world)
    assert _figures(world)["unreadable"] == []


# ---- tasks that are deleted, skipped or doubled -----------------------------------------------------------


def test_a_deleted_task_does_not_stop_the_review(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=4)
    for task in world.tasks[6:12]:
        world.studio.delete_tasks(world.project_id, [task])
    worker = world.worker()
    for _ in range(40):
        report = worker.look(world.project_id)
        assert report is not None
        assert report.error == ""
        assert report.review is not None
        if report.review.done:
            break
        world.answer_all()
    else:
        raise AssertionError("the review never ended")
    left = {str(task) for task in world.tasks[12:]}
    record = step(trained_round, world.open())
    assert record is not None
    assert {q.instance[1:].split("-")[0] for q in _questions(world)} & left


def test_pictures_that_cannot_be_read_take_no_room_from_other_questions(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=4, question_budget=100)
    for path in sorted(world.images.iterdir())[6:12]:
        path.write_bytes(b"no picture")
    for folder in (world.folder / "data").rglob("*"):
        if folder.is_dir() and "image" in folder.name:
            for file in folder.rglob("*"):
                if file.is_file():
                    file.unlink()
    report = _finish(world)
    assert report.done
    asked = {int(q.instance[1:].split("-")[0]) for q in _questions(world) if q.review_task_id is not None}
    assert asked & set(world.tasks[12:])


def test_a_deleted_review_task_is_asked_again_also_when_its_mask_was_asked_twice(
    make_world: MakeWorld,
) -> None:
    world = _reviewing(make_world, min_answer_s=1.0, question_batch=6)
    first = world.studio.next_task(_single(world))
    assert first is not None
    _, (question,) = read_questions(first.data)
    world.studio.create_annotation(first.id, answer_result("single", [True]), lead_time_s=0.2)
    assert _look(world).new >= 1  # too fast: the mask gets a second task
    world.studio.delete_tasks(_single(world), [first.id])
    report = _finish(world)
    assert report.done
    mine = {q.key for q in _questions(world) if q.instance == question.instance}
    assert mine
    assert mine & {answer.question_key for answer in _answers(world)}


def test_skipped_questions_take_no_room_from_new_ones(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, policy="original", question_batch=5)
    single = _single(world)
    skipped: set[str] = set()
    while (task := world.studio.next_task(single)) is not None:
        skipped.add(read_questions(task.data)[1][0].instance)
        world.studio.create_annotation(task.id, [], was_cancelled=True)
    assert len(skipped) >= 5
    report = _look(world)
    assert report.new > 0
    assert _finish(world).done
    assert _figures(world)["skipped"] == len(skipped)
    # others may still answer, and then the answer counts
    other = world.studio.as_user("other@example.com", "x")
    before = _look(world).answered
    assert world.answer_all(other) >= len(skipped)
    assert _finish(world).answered >= before + len(skipped)
    assert _figures(world)["skipped"] == 0


def test_in_a_crowd_a_skip_waits_for_the_others_and_then_for_an_expert(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, review_overlap_max=3, question_batch=4)
    anna, ben = (world.studio.as_user(f"{name}@example.com", "x") for name in ("anna", "ben"))
    single = _single(world)
    task = anna.next_task(single)
    assert task is not None
    _, (question,) = read_questions(task.data)
    anna.create_annotation(task.id, [], was_cancelled=True)
    for _ in range(30):
        world.answer_all(anna, limit=3)
        while (other := ben.next_task(single)) is not None and other.id == task.id:
            ben.create_annotation(other.id, [], was_cancelled=True)
        world.answer_all(ben, limit=3)
        report = _look(world)
        if report.done:
            break
    else:
        raise AssertionError("the review never ended")
    assert report.skipped <= 1
    about = [q for q in _questions(world) if q.instance == question.instance]
    assert about


def test_two_review_tasks_of_one_question_are_one(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=6)
    single = _single(world)
    first = min(world.studio.task_ids(single))
    data = dict(world.studio.task(first).data)
    (double,) = world.studio.import_tasks(single, [data])
    (key,) = [question.key for question in read_questions(data)[1]]
    for _ in range(3):
        _look(world)
        (question,) = [q for q in _questions(world) if q.key == key]
        assert question.review_task_id == first
        for task in (first, double):  # a change of either makes both of them seen again
            world.studio._touch(world.studio._get("tasks", task))
    said = world.studio.create_annotation(double, answer_result("single", [True]), lead_time_s=3.0)
    _look(world)
    assert said.id in {answer.annotation_id for answer in _answers(world) if answer.question_key == key}
    world.studio.delete_tasks(single, [first])  # what was said about the other one stays
    _look(world)
    (question,) = [q for q in _questions(world) if q.key == key]
    assert question.review_task_id == double
    assert said.id in {answer.annotation_id for answer in _answers(world)}


def test_a_second_copy_of_a_task_is_served_to_nobody(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=6)
    first = min(world.studio.task_ids(_single(world)))
    (double,) = world.studio.import_tasks(_single(world), [dict(world.studio.task(first).data)])
    _look(world)
    assert world.studio.task(double).is_labeled
    assert not world.studio.task(first).is_labeled


# ---- experts, and settings that change --------------------------------------------------------------------


def test_an_expert_decides_also_where_one_answer_is_enough(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=8)
    single = _single(world)
    task = min(world.studio.task_ids(single))
    expert = world.studio.as_user("expert@example.com", "x")
    said = expert.create_annotation(task, answer_result("single", [False]), lead_time_s=5.0)
    for name in ("a@example.com", "b@example.com"):
        client = world.studio.as_user(name, "x")
        client.create_annotation(task, answer_result("single", [True]), lead_time_s=5.0)
    _, (question,) = read_questions(world.studio.task(task).data)
    assert said.completed_by is not None

    def verdict() -> int:
        from ml_backend.artifacts.verdicts import read_verdicts

        _look(world)
        project = world.open()
        record = step(trained_round, project)
        assert record is not None
        row = read_verdicts(project.paths.round(record.number)).rows[question.instance]
        return row.verdict

    assert verdict() == 1
    world.settings = world.settings.model_copy(update={"experts": [said.completed_by]})
    assert verdict() == -1


def test_a_later_change_of_overlap_reaches_the_review_project(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=6, review_overlap_max=3)
    world.answer_all(limit=2)
    _look(world)
    other = world.studio.as_user("other@example.com", "x")
    world.settings = world.settings.model_copy(update={"review_overlap": 2})
    assert rebuild(world.settings, world.store, world.studio)[0].error == ""
    assert world.studio.project(_single(world)).maximum_annotations == 1  # a rebuild only reads
    _look(world)
    assert world.studio.project(_single(world)).maximum_annotations == 2
    answered_once = {a.review_task_id for a in _answers(world)}
    served = other.next_task(_single(world))
    assert served is not None
    assert served.id in answered_once


def test_new_links_reach_open_review_tasks(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=8, gold_share=0.2, review_form="sheet")
    sheet = world.review_projects()["sheet"]
    answered = world.studio.next_task(sheet)
    assert answered is not None
    world.answer_all(limit=1)
    _look(world)
    kept = world.studio.task(answered.id)
    (world.settings.data_dir / "signing.key").unlink(missing_ok=True)  # links signed with it would stay valid
    changes: list[dict[str, Any]] = [
        {"signing_key": SecretStr("a first key for links")},
        {"signing_key": SecretStr("a second key that does not know the first")},
        {"backend_url": "http://crops.example"},
    ]
    for change in changes:
        world.settings = world.settings.model_copy(update=change)
        _look(world)
        client = create_app(world.settings).test_client()
        text = world.studio._db["projects"][str(sheet)]["instruction"].replace("&amp;", "&")
        examples = re.findall(r'<img src="([^"]+)"', text)
        assert examples
        for link in examples:
            assert link.startswith(world.settings.backend_url)
            assert client.get(link.removeprefix(world.settings.backend_url)).status_code == 200
        tasks = [task for task in world.studio.tasks(sheet) if not task.is_labeled]
        assert tasks
        for task in tasks:
            for card in task.data["cards"]:
                link = card["html"].split('src="')[1].split('"')[0].replace("&amp;", "&")
                assert link.startswith(world.settings.backend_url)
                assert client.get(link.removeprefix(world.settings.backend_url)).status_code == 200
            assert read_questions(task.data)[0] == "sheet"
        assert world.studio.task(answered.id) == kept


def test_a_look_at_an_unchanged_review_runs_no_policy(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Counting:
        """The original policy, counted."""

        name = "counting"

        def __init__(self) -> None:
            self._policy = make_policy("original")

        def step(self, project: Any, log: Any, **options: Any) -> Any:
            calls.append(len(log))
            return self._policy.step(project, log, **options)

    monkeypatch.setitem(POLICIES, "counting", Counting)
    world = _reviewing(make_world, policy="counting", question_batch=8)
    project = world.open()

    def look(**settings: Any) -> ReviewReport:
        record = step(trained_round, project)
        assert record is not None
        changed = replace(project, settings=project.settings.model_copy(update=settings))
        return step(review, changed, record)

    first = look()
    look()
    seen = len(calls)
    assert look() == replace(first, new=0)
    assert look() == replace(first, new=0)
    assert len(calls) == seen
    world.answer_all(limit=1)
    assert look().answered == first.answered + 1
    assert len(calls) > seen
    look()
    seen = len(calls)
    look()
    assert len(calls) == seen
    look(question_batch=9)
    assert len(calls) > seen
    (project.paths.round(1) / "verdicts.parquet").unlink()
    look()
    assert (project.paths.round(1) / "verdicts.parquet").exists()


@pytest.mark.parametrize("column", ["finished", "broken", "image_error"])
def test_a_task_in_the_place_of_another_is_a_change(make_world: MakeWorld, column: str) -> None:
    world = _reviewing(make_world)
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    value = True if column == "finished" else "cannot be read"
    found = []
    for chosen in world.tasks[10:12]:  # as many as before, but another one
        with world.store.write() as session:
            for task in world.tasks[10:12]:
                row = session.get_one(TaskRecord, task)
                setattr(row, column, value if task == chosen else type(value)())
        found.append(step(review_fingerprint, project, record))
    assert found[0] != found[1]


def test_all_settings_that_a_review_reads_are_known() -> None:
    """Where something lies (folders, addresses) does not change what a review does."""
    places = {"data_dir", "webhook_secret", "overlap_s"}
    folder = Path(sync.review.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    read = set(re.findall(r"\bsettings\.([a-z]\w+)", text)) - {"model_copy", "model_dump", "policy"}
    addresses = {name for name in read if name.endswith("_url")}
    assert len(read & _SETTINGS) > 3, "no setting was found: has the code changed its form?"
    assert read - places - addresses <= _SETTINGS


def test_an_answer_committed_a_little_late_is_found(make_world: MakeWorld) -> None:
    """Its time lies before the newest change that was seen, by less than the overlap."""
    world = _reviewing(make_world, overlap_s=60.0)
    world.answer_all(limit=1)
    project = world.open()
    assert step(pull_answers, project) == 1
    with world.store.read() as session:
        newest = session.get_one(ProjectRecord, world.project_id).review_watermark
    assert newest is not None
    before = {task: row["updated_at"] for task, row in world.studio._db["tasks"].items()}
    world.answer_all(limit=1)
    (late,) = (task for task, row in world.studio._db["tasks"].items() if row["updated_at"] != before[task])
    world.studio._db["tasks"][late]["updated_at"] = (newest - timedelta(seconds=30)).isoformat()
    assert step(pull_answers, project) == 1


# ---- review projects of others ----------------------------------------------------------------------------


def test_a_deleted_review_project_is_made_anew(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=6)
    old = _single(world)
    world.studio.delete_project(old)
    report = _look(world)
    assert report.new > 0
    assert _single(world) != old
    assert _finish(world).done


def test_the_review_project_of_an_earlier_project_of_the_number_is_not_used(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=6)
    world.answer_all()
    _look(world)
    old = _single(world)
    # the server of the labels was reset: another project has the number now
    project = world.open()
    later = replace(project, db=replace(project.db, key=f"{world.project_id}.4000000000"))
    record = step(trained_round, project)
    assert record is not None
    report = step(review, later, record)
    assert _single(world) != old
    assert report.answered == 0
    assert len(world.studio.task_ids(old)) > 0
