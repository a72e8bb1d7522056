"""Review: forms, redundancy, gold, careless workers, carried answers; all on the fake Label Studio."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from clustering.answers import AnswerLog, PolicyStep, Questions, verified_labels
from clustering.project_pool import ProjectPool
from clustering.search import POLICIES
from clustering.search._parts import DecisionRows
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.rle import decode_rle, encode_mask
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.question import HIDDEN, Question
from sync.review.questions import gold_questions, spread
from sync.review.review import review
from sync.review.review_project import ReviewOwner, ensure_review_project
from sync.review.review_tasks import parse_answers, read_questions, sheet_key, sheet_task, single_task
from sync.rounds.cluster import load_label_pools
from sync.rounds.round_records import trained_round
from sync.store.tables import AnswerRecord, QuestionRecord
from tests.fakes.label_studio import FakeStudio
from tests.sync.conftest import World, answer_result
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def _question(i: int = 0) -> Question:
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2 : 6 + i % 2] = True
    return Question(
        key=f"1:t{i}-aa:0:0", project_id=1, round=1, task_id=i, instance=f"t{i}-aa", label="disc", item=i,
        cluster=3, stream=0, inclusion=1.0, form=0, repeat=0, prior=0.8, rle=encode_mask(mask),
    )  # fmt: skip


def _reviewing(make_world: MakeWorld, **options: Any) -> World:
    world = make_world(20, **{"review_form": "single", **options})
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return world


def _finish(world: World, answer: Callable[[], object]) -> dict[str, int]:
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    for _ in range(60):
        if step(review, project, record).done:
            rows = read_verdicts(project.paths.round(record.number)).rows
            return {key: verdict.verdict for key, verdict in rows.items()}
        answer()
    raise AssertionError("the review never ended")


def _figures(world: World) -> dict[str, Any]:
    record = step(trained_round, world.open())
    assert record is not None
    found: dict[str, Any] = record.figures["review"]
    return found


def test_questions_travel_in_their_tasks() -> None:
    questions = [_question(i) for i in range(3)]
    form, (found,) = read_questions(single_task(questions[0], "http://x/c.jpg"))
    assert (form, found) == ("single", questions[0])
    data = sheet_task(questions, ["a", "b?x=1&y=2", "c"])
    assert read_questions(data) == ("sheet", questions)
    assert "b?x=1&amp;y=2" in data["cards"][1]["html"]
    assert sheet_key(questions) != sheet_key(questions[:2])
    for broken in ({}, {"groundswell": 3}, {"groundswell": {"form": "single", "questions": [{"key": 1}]}}):
        with pytest.raises(BadInput, match="groundswell"):
            read_questions(broken)


def test_answers_of_both_forms_are_read() -> None:
    studio = FakeStudio()
    owner = ReviewOwner("7.0", "here")
    single = ensure_review_project(studio, owner, "Cells", form="single")
    assert ensure_review_project(studio, owner, "Cells renamed", form="single") == single
    sheet = ensure_review_project(studio, owner, "Cells", form="sheet")
    assert sheet != single
    questions = [_question(i) for i in range(3)]
    data = {"single": single_task(questions[0], "u"), "sheet": sheet_task(questions, ["u", "v", "w"])}
    (one,) = studio.import_tasks(single, [data["single"]])
    (many,) = studio.import_tasks(sheet, [data["sheet"]])
    for value in ("yes", "no", "unsure"):
        result = [
            {"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": [value]}}
        ]
        (answer,) = parse_answers(data["single"], studio.create_annotation(one, result, lead_time_s=3.0))
        assert (answer.question_key, answer.value, answer.seconds) == (questions[0].key, value, 3.0)
    assert parse_answers(data["single"], studio.create_annotation(one, [])) == []
    skip = studio.create_annotation(one, [], was_cancelled=True)
    assert parse_answers(data["single"], skip) == []
    ticked = studio.create_annotation(many, answer_result("sheet", [True, False, True]), lead_time_s=6.0)
    answers = parse_answers(data["sheet"], ticked)
    assert [(a.value, a.seconds) for a in answers] == [("yes", 2.0), ("no", 2.0), ("yes", 2.0)]
    nothing = parse_answers(data["sheet"], studio.create_annotation(many, []))
    assert [a.value for a in nothing] == ["yes"] * 3


def test_the_sheet_form_gives_the_same_labels_as_the_single_form(make_world: MakeWorld) -> None:
    single = _reviewing(make_world, name="single", review_form="single")
    sheet = _reviewing(make_world, name="sheet", review_form="sheet")
    truth = _finish(single, single.answer_all)
    assert _finish(sheet, sheet.answer_all) == truth
    assert set(sheet.review_projects()) == {"sheet"}
    tasks = sheet.studio.task_ids(sheet.review_projects()["sheet"])
    assert len(tasks) < _figures(sheet)["asked"] / 3


def test_crops_are_rendered_and_signed(make_world: MakeWorld) -> None:
    world = _reviewing(make_world)
    task = next(iter(world.studio.tasks(world.review_projects()["single"])))
    assert "/crops/" in task.data["image"]
    assert "sig=" in task.data["image"]
    _, (question,) = read_questions(task.data)
    assert (world.open().paths.crops / f"{question.instance}.jpg").exists()


def test_unsure_and_unsettled_questions_go_to_other_workers(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, policy="original", review_overlap_max=3, question_batch=20)
    clients = [world.studio.as_user(f"w{i}@example.com", "x") for i in range(3)]

    def answer() -> None:
        for client in clients:
            world.answer_all(client, limit=5)

    labels = _finish(world, answer)
    assert set(labels.values()) == {1}
    with world.store.read() as session:
        questions = session.scalars(select(QuestionRecord)).all()
        answers = session.scalars(select(AnswerRecord)).all()
    assert len(answers) == len(questions)  # every review task once
    workers = _figures(world)["workers"]
    assert len(workers) == 3
    assert not any(row["suspended"] for row in workers)


def test_answered_questions_are_asked_again_among_the_others(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, policy="random", repeat_share=0.4, gold_share=0.0, question_batch=8)
    for _ in range(2):
        world.answer_all()
        world.worker().look(world.project_id)
    with world.store.read() as session:
        questions = session.scalars(select(QuestionRecord)).all()
    hidden = [question for question in questions if question.repeat >= HIDDEN]
    first = {question.instance for question in questions if question.repeat == 0}
    assert hidden
    assert {question.instance for question in hidden} <= first
    assert all(question.review_task_id is not None for question in hidden)


def test_a_careless_worker_is_found_and_the_labels_hold(make_world: MakeWorld) -> None:
    world = _reviewing(
        make_world,
        review_overlap_max=5,
        gold_share=0.45,
        repeat_share=0.1,
        question_batch=30,
        policy="original",
        policy_options={"reject": 0.0},
    )
    honest = [world.studio.as_user(f"h{i}@example.com", "x") for i in range(3)]
    careless = world.studio.as_user("careless@example.com", "x")
    rng = np.random.default_rng(0)

    def answer() -> None:
        for _ in range(60):
            done = world.answer_all(careless, limit=1, flip=lambda key: bool(rng.random() < 0.75))
            done += sum(world.answer_all(client, limit=1) for client in honest)
            if not done:
                return

    labels = _finish(world, answer)
    workers = _figures(world)["workers"]
    suspended = [row for row in workers if row["suspended"]]
    assert len(suspended) == 1
    assert suspended[0]["reasons"]
    assert suspended[0]["gold"] > 0
    assert np.mean([value > 0 for value in labels.values()]) > 0.95  # the tiny learner's masks are all good


def test_what_workers_leave_open_waits_for_an_expert_who_decides(make_world: MakeWorld) -> None:
    at = "https://labels.example"
    options = {"gold_share": 0.0, "question_batch": 6, "studio_public_url": at}
    world = _reviewing(make_world, crowd=True, review_overlap_max=3, **options)
    clients = [world.studio.as_user(f"w{i}@example.com", "x") for i in range(3)]
    disputed: str = ""

    def answer() -> None:
        nonlocal disputed
        for client in clients * 3:
            if (task := client.next_task(world.review_projects()["single"])) is not None:
                _, (question,) = read_questions(task.data)
                disputed = disputed or question.instance
                if question.instance == disputed:
                    verdict = [{"from_name": "verdict", "to_name": "image", "type": "choices"}]
                    result = [{**verdict[0], "value": {"choices": ["unsure"]}}]
                else:
                    result = answer_result("single", [world.is_good(question)])
                client.create_annotation(task.id, result, lead_time_s=2.0)

    _finish(world, answer)
    figures = _figures(world)
    assert figures["expert_queue"] == len(figures["expert"]) > 0
    (row,) = [row for row in figures["expert"] if disputed.startswith(f"t{row['task']}-")]
    shown = read_questions(world.studio.task(row["review_task"]).data)[1][0]
    assert shown.instance == disputed
    review = world.review_projects()["single"]
    assert row["url"] == f"{at}/projects/{review}/data?task={row['review_task']}"
    text = "\n".join(status_lines(status(world.settings, world.store)))
    assert f"{figures['expert_queue']} questions used up their workers" in text
    assert all(waiting["url"] in text for waiting in figures["expert"][:3])

    # an expert opens the link and answers: that decides, and the queue is empty
    expert = world.studio.as_user("expert@example.com", "x")
    said = expert.create_annotation(row["review_task"], answer_result("single", [False]), lead_time_s=9.0)
    assert said.completed_by is not None
    world.settings = world.settings.model_copy(update={"experts": [said.completed_by]})
    labels = _finish(world, answer)
    assert labels[disputed] == -1
    assert _figures(world)["expert_queue"] == figures["expert_queue"] - 1


def test_hurried_answers_are_asked_again(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, min_answer_s=1.0)
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    review_id = world.review_projects()["single"]
    task = world.studio.next_task(review_id)
    assert task is not None
    world.studio.create_annotation(task.id, answer_result("single", [False]), lead_time_s=0.2)
    report = step(review, project, record)
    assert report.new == 1
    again = [q for q in _questions(world) if q.repeat == 1]
    assert [q.instance for q in again] == [read_questions(task.data)[1][0].instance]
    assert step(review, project, record).new == 0


def _questions(world: World) -> list[QuestionRecord]:
    with world.store.read() as session:
        return list(session.scalars(select(QuestionRecord).order_by(QuestionRecord.id)))


def test_gold_looks_like_any_question_and_its_truth_is_known(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, gold_share=0.3)
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    pool = step(load_label_pools, project, record)[0]
    rows = [
        dataclasses.replace(_question(i), instance=str(pool.table.key[i]), item=i, form=i % 2, sheet=i % 2)
        for i in range(14)
    ]
    gold = step(gold_questions, project, 1, pool, rows, [], None)
    assert len(gold) == 6
    assert {(q.form, q.sheet) for q in gold} == {(0, 0), (1, 1)}
    good = [world.is_good(question) for question in gold]
    assert good in ([True, False] * 3, [False, True] * 3)
    keys = set(pool.table.key)
    for question in gold:
        assert question.instance not in keys
        assert 0 <= question.item < len(pool)
        assert decode_rle(question.rle).any()
    assert gold == step(gold_questions, project, 1, pool, rows, [], None)
    mixed = spread([_question(i) for i in range(10)], gold, 0)
    assert [q for q in mixed if q not in gold] == [_question(i) for i in range(10)]


def test_answers_are_carried_over_and_old_questions_withdrawn(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, retrain_after=2, question_batch=16)
    world.answer_all(limit=12)
    world.worker().look(world.project_id)
    first = {q.review_task_id for q in _questions(world) if q.round == 1}
    with world.store.read() as session:
        answered = {a.review_task_id for a in session.scalars(select(AnswerRecord))}
    world.label(18, 19)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.round == 2
    left = {task.id: task for task in world.studio.tasks(world.review_projects()["single"])}
    assert first <= set(left)  # nothing is deleted
    assert {task for task in first if task is not None and left[task].annotations} == answered
    assert all(left[task].is_labeled for task in first if task is not None)  # nobody is served them any more
    figures = _figures(world)
    with world.store.read() as session:
        told = {q.instance for q in session.scalars(select(QuestionRecord)) if q.review_task_id in answered}
    open_tasks = set(world.tasks[6:18])
    assert figures["carried"] == sum(int(name[1:].split("-")[0]) in open_tasks for name in told)
    fresh = [q for q in _questions(world) if q.round == 2]
    assert not {q.instance for q in fresh if q.review_task_id} & told  # nobody is asked twice about a mask
    labels = _finish(world, world.answer_all)
    assert {name for name in told if int(name[1:].split("-")[0]) in open_tasks} <= set(labels)


def test_the_budget_holds(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_budget=10)
    _finish(world, world.answer_all)
    assert len(_questions(world)) == 10


def test_policies_of_other_names_and_wrong_options(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, policy="breadth-first")
    assert _finish(world, world.answer_all)
    bad = make_world(8, name="bad", policy="no such policy")
    bad.label(*range(5))
    report = bad.worker().look(bad.project_id)
    assert report is not None
    assert "no such policy" in report.error


def test_certified_policy_runs_a_whole_review(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, policy="certified", question_batch=40)
    labels = _finish(world, world.answer_all)
    assert any(value > 0 for value in labels.values())


def test_a_label_without_instances_is_no_trouble(make_world: MakeWorld) -> None:
    world = make_world(8)
    xml = world.studio.project(world.project_id).label_config.replace(
        '<Label value="bar"', '<Label value="never" /><Label value="bar"'
    )
    assert "never" in parse_label_config(xml).labels
    world.studio._db["projects"][str(world.project_id)]["label_config"] = xml
    world.label(*range(5))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""


class AsksTwice:
    """A policy that wants everything in two samples, the second one reserved for calibration."""

    name = "asks twice"

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        n = len(project)
        done = set(zip(log.item.tolist(), log.stream.tolist(), (log.cluster - 7).tolist(), strict=True))
        wanted = [(i, s) for s in (0, 1) for i in range(n) if (i, s, s) not in done][:budget]
        item, stream = np.array(wanted, np.int64).reshape(-1, 2).T
        k = len(item)
        questions = Questions(
            item=item,
            cluster=7 + stream,
            phase=10 + stream,
            stream=stream.astype(np.int8),
            inclusion=np.full(k, 0.5),
            form=np.zeros(k, np.int8),
            sheet=np.full(k, -1),
        )
        none = DecisionRows(0.95).build()
        return PolicyStep(questions, none, verified_labels(log, n), np.full(n, -1), not k)


def test_a_known_mask_answers_every_sample_it_is_drawn_for(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, "asks twice", AsksTwice)
    world = _reviewing(make_world, policy="asks twice", retrain_after=2)
    first = _finish(world, world.answer_all)
    asked = [q for q in _questions(world) if q.review_task_id is not None]
    silent = [q for q in _questions(world) if q.review_task_id is None]
    assert sorted(q.instance for q in asked) == sorted(q.instance for q in silent) == sorted(first)
    assert {q.stream for q in asked} == {0}
    assert {(q.stream, q.cluster, q.phase, q.inclusion) for q in silent} == {(1, 8, 11, 0.5)}
    world.label(18, 19)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.round == 2
    assert report.review is not None
    assert (report.review.done, report.review.asked) == (True, 0)  # the next round knows it all
    answered = next(iter(world.studio.tasks(world.review_projects()["single"]))).annotations[0]
    world.studio.delete_annotation(answered.id)  # a withdrawn answer opens its questions again
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    again = step(review, project, record)
    assert (again.done, again.new) in {(False, 1), (True, 0)}  # 0: its task is finished by now


def test_status_has_a_line_per_review_worker(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, crowd=True, review_overlap_max=3, min_answer_s=0.0)
    world.answer_all(world.studio.as_user("w@example.com", "x"))
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    step(review, project, record)
    (row,) = _figures(world)["workers"]
    text = "\n".join(status_lines(status(world.settings, world.store)))
    assert f"worker {row['worker']}: {row['answers']} answers, 2.0 s each" in text
    assert f"on {row['gold']} gold" in text
