"""The promise in the worker: which answers a certificate may read, and what the policy is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from clustering.answers import AnswerLog, PolicyStep, Questions, Stream, verified_labels
from clustering.project_pool import ProjectPool
from clustering.search import HARVEST_PHASE, POLICIES
from clustering.search._parts import DecisionRows, QuestionRows
from clustering.search._plan import search_phase
from clustering.search.certified import Certified
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.masks.rle import decode_rle, encode_mask
from sync.projects.rebuild import rebuild
from sync.review.ask import tasks_to_ask
from sync.review.decide import Plan, asked_again, decide
from sync.review.question import Question
from sync.review.questions import without_lone_cards
from sync.review.review import review
from sync.review.review_tasks import pictures_of, read_questions, sheet_task, with_pictures
from sync.review.verdicts import ReviewLog, read_review_log
from sync.review.weighing import AskedMask, Told, first_answers, weigh
from sync.rounds.cluster import LabelPool, load_label_pools
from sync.rounds.known_masks import load_lessons
from sync.rounds.round_records import trained_round
from sync.settings import Settings
from sync.store.tables import AnswerRecord, DecisionRecord, QuestionRecord
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
START = datetime(2026, 1, 1, tzinfo=UTC)
LOW: dict[str, Any] = {"purity": 0.55, "audit": 0}
"""A promise that can be tested on as few masks as there are here."""


def _reviewing(make_world: MakeWorld, **options: Any) -> World:
    world = make_world(20, **{"review_form": "single", **options})
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return world


def _look(world: World) -> bool:
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    return step(review, project, record).done


def _finish(world: World, answer: Callable[[], object]) -> None:
    for _ in range(60):
        if _look(world):
            return
        answer()
    raise AssertionError("the review never ended")


def _pools(world: World) -> list[LabelPool]:
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    return [pool for pool in step(load_label_pools, project, record) if len(pool)]


def _log(world: World, **settings: Any) -> ReviewLog:
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    changed = project.settings.model_copy(update=settings)
    pools = _pools(world)
    lessons = step(load_lessons, project, record, [pool.label for pool in pools])
    return read_review_log(project.db, changed, record.number, pools, lessons=lessons)


def _plan(world: World) -> Plan:
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    return step(decide, project, record, _pools(world))


def _until_tested(world: World) -> ReviewLog:
    """Answer until the certificate's test has read some answers."""
    for _ in range(12):
        world.answer_all()
        _look(world)
        log = _log(world)
        if (log.log.stream == Stream.CALIBRATION).any():
            return log
    raise AssertionError("the test never began")


def _questions(world: World) -> list[QuestionRecord]:
    with world.store.read() as session:
        return list(session.scalars(select(QuestionRecord).order_by(QuestionRecord.id)))


# ---- one certificate for all labels -----------------------------------------------------------------------


def test_the_labels_of_a_round_share_one_certificate_and_one_limit_of_open_questions(
    make_world: MakeWorld,
) -> None:
    world = _reviewing(make_world, question_batch=8, policy_options=LOW)
    most: list[int] = []

    def answer() -> None:
        with world.store.read() as session:
            done = set(session.scalars(select(AnswerRecord.question_key)))
        most.append(sum(q.key not in done for q in _questions(world) if q.review_task_id is not None))
        world.answer_all()

    _finish(world, answer)
    assert max(most) == 8
    asked = _questions(world)
    assert {question.label for question in asked} == {"disc", "bar"}
    assert {(question.certificate, question.terms) for question in asked} == {(1, asked[0].terms)}
    assert len({question.phase for question in asked}) > 2  # search, certificate, harvest
    with world.store.read() as session:
        decisions = list(session.scalars(select(DecisionRecord)))
    over_all = [row for row in decisions if row.test == "certificate over all labels"]
    assert [(row.label, row.cluster, row.phase % 10) for row in over_all] == [("", -1, 9)]
    verdicts = read_verdicts(world.open().paths.round(1)).rows.values()
    unseen = [verdict for verdict in verdicts if verdict.verdict > 0 and not verdict.verified]
    assert len(unseen) == over_all[0].members > 0
    assert {verdict.lower for verdict in unseen} == {0.55}
    assert {verdict.decision for verdict in unseen} == {over_all[0].number}
    assert all(np.isnan(v.lower) for v in verdicts if v.verified)
    record = step(trained_round, world.open())
    assert record is not None
    promise = record.figures["review"]["promise"]
    assert (promise["purity"], promise["delta"], promise["certificate"]) == (0.55, 0.05, 1)
    assert (promise["accepted_unseen"], promise["holds"]) == (len(unseen), True)
    assert promise["verified"] == sum(v.verdict > 0 and v.verified for v in verdicts)
    assert record.figures["review"]["forecast"]["questions"] == 0


class Notes:
    """A policy that wants nothing and notes how it was called."""

    name = "notes"
    calls: list[tuple[int, int]]

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        self.calls.append((certificate, seed))
        n = len(project)
        item = np.array([0], np.int64) if not len(log) else np.zeros(0, np.int64)
        k = len(item)
        one = Questions(
            item=item,
            cluster=np.full(k, -1),
            phase=np.zeros(k, np.int64),
            stream=np.zeros(k, np.int8),
            inclusion=np.ones(k),
            form=np.zeros(k, np.int8),
            sheet=np.full(k, -1),
        )
        none = DecisionRows(0.95).build()
        return PolicyStep(one, none, verified_labels(log, n), np.full(n, -1), not k)


def test_every_round_and_every_change_of_options_draws_with_a_seed_of_its_own(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, "notes", Notes)
    Notes.calls = []
    world = _reviewing(make_world, policy="notes", retrain_after=2)
    world.label(18, 19)
    assert world.worker().look(world.project_id) is not None
    (first, seed), (second, other) = sorted(set(Notes.calls))
    assert (first, second) == (1, 2)
    assert seed != other
    world.settings = world.settings.model_copy(update={"seed": 5})
    _look(world)
    assert len({seed for _, seed in Notes.calls}) == 3


def test_a_change_of_options_begins_a_certificate_whose_test_reads_no_older_answer(
    make_world: MakeWorld,
) -> None:
    world = _reviewing(make_world, question_batch=20, policy_options=LOW)
    before = _until_tested(world)
    assert before.certificate.number == 1
    assert (before.log.phase >= 0).all()

    options = {"policy_options": {"purity": 0.9}}
    changed = _log(world, **options)
    assert changed.certificate.number == 2
    assert (changed.log.phase == -1).all()
    assert set(changed.log.stream.tolist()) == {int(Stream.SEARCH)}
    # what people said is not lost: it verifies its masks
    rows = before.log.item.tolist()
    n = sum(len(pool) for pool in _pools(world))
    assert verified_labels(changed.log, n)[rows].tolist() == verified_labels(before.log, n)[rows].tolist()

    world.settings = world.settings.model_copy(update=options)
    _look(world)
    fresh = [q for q in _questions(world) if q.certificate == 2]
    assert fresh
    told = {(q.label, q.instance) for q in before.questions if q.key in before.answered}
    assert not {(q.label, q.instance) for q in fresh if q.review_task_id is not None} & told
    # the old settings have their old number, with the answers of its test
    back = _log(world, policy_options=LOW)
    assert back.certificate == before.certificate
    assert back.log.phase.tolist() == before.log.phase.tolist()
    # another change is a third promise
    assert _log(world, policy_options={"purity": 0.8}).certificate.number == 3


def test_rebuild_restores_phases_and_certificates(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=12)
    world.answer_all()
    world.settings = world.settings.model_copy(update={"policy_options": {"purity": 0.9}})
    _look(world)
    world.answer_all()
    _look(world)

    def rows() -> list[tuple[Any, ...]]:
        shown = [q for q in _questions(world) if q.review_task_id is not None]
        return sorted((q.key, q.phase, q.certificate, q.terms, q.cluster, q.stream) for q in shown)

    before, log = rows(), _log(world)
    assert {row[2] for row in before} == {1, 2}
    assert rebuild(world.settings, world.store, world.studio)[0].error == ""
    assert rows() == before
    after = _log(world)
    assert after.certificate == log.certificate
    for name in ("item", "phase", "stream", "answer", "yes"):
        np.testing.assert_array_equal(getattr(after.log, name), getattr(log.log, name))


def test_questions_of_older_releases_have_no_phase_and_no_cluster() -> None:
    question = _question()
    data = asdict(question)
    for name in ("phase", "certificate", "terms"):
        del data[name]
    old = {**data, "cluster": -11}  # -2 - phase 9
    _, (found,) = read_questions({"groundswell": {"form": "single", "questions": [old]}})
    assert (found.cluster, found.phase, found.certificate, found.terms) == (-1, -1, 0, "")


def _question(i: int = 0, **changes: Any) -> Question:
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:6] = True
    values: dict[str, Any] = {
        "key": f"1:t{i}-aa:1.0.0:0", "project_id": 1, "round": 1, "task_id": i, "instance": f"t{i}-aa",
        "label": "disc", "item": i, "cluster": -1, "stream": 0, "inclusion": 1.0, "form": 0, "repeat": 0,
        "prior": 0.8, "rle": encode_mask(mask), "phase": 0, "certificate": 1, "terms": "t",
    }  # fmt: skip
    return Question(**{**values, **changes})


def test_a_mask_alone_on_its_sheet_is_asked_about_by_itself() -> None:
    cards = [_question(i, form=1, sheet=3 if i < 2 else 4) for i in range(3)]
    found = without_lone_cards(cards)
    assert found[:2] == cards[:2]
    assert (found[2].form, found[2].sheet) == (0, -1)


def test_a_sheet_may_show_several_labels_and_says_then_which_card_is_which() -> None:
    cards = [_question(i, form=1, sheet=3, label=("disc", "<bar>")[i % 2]) for i in range(4)]
    (task,) = tasks_to_ask("sheet", cards, {})
    assert [question.label for question in task.questions] == ["<bar>", "<bar>", "disc", "disc"]
    data = sheet_task(task.questions, ["a", "b", "c", "d"])
    assert "disc" not in data["question"]
    assert "&lt;bar&gt;</div>" in data["cards"][0]["html"]
    assert "disc</div>" in data["cards"][3]["html"]
    assert pictures_of(with_pictures(data, ["e", "f", "g", "h"])) == ["e", "f", "g", "h"]
    assert "disc</div>" in with_pictures(data, ["e", "f", "g", "h"])["cards"][3]["html"]
    alone = sheet_task(cards[:1], ["a"])
    assert "good disc" in alone["question"]
    assert "<div" not in alone["cards"][0]["html"]


# ---- answers of earlier rounds ----------------------------------------------------------------------------


def _rectangle(x0: int, x1: int) -> Any:
    mask = np.zeros((48, 64), bool)
    mask[10:30, x0:x1] = True
    return mask


def _iou(a: Any, b: Any) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_an_answer_about_nearly_the_same_mask_verifies_nothing(make_world: MakeWorld) -> None:
    # a good mask, and one that overlaps it by 0.9 and is not good
    truth, old, new = _rectangle(10, 50), _rectangle(10, 41), _rectangle(10, 38)
    assert _iou(old, truth) > 0.75
    assert _iou(new, old) > 0.9
    assert _iou(new, truth) < 0.75

    world = _reviewing(make_world, question_budget=0)
    pool = _pools(world)[0]
    rows = [row for row in range(len(pool)) if decode_rle(pool.table.rle(row)).sum() > 120][:2]
    assert len(rows) == 2
    same, nearly = (dict(pool.table.rle(row)) for row in rows)
    mask = decode_rle(nearly).astype(bool)
    y, x = np.nonzero(mask)
    mask[y[0], x[0]] = False
    for number, (row, rle) in enumerate(zip(rows, (same, encode_mask(mask)), strict=True)):
        key = str(pool.table.key[row]) if number == 0 else "t1-00000000"
        _answer_of_an_earlier_round(world, pool, row, key, dict(rle), yes=True)
    log = _log(world)
    stream = dict(zip(log.log.item.tolist(), log.log.stream.tolist(), strict=True))
    assert stream == {rows[0]: int(Stream.SEARCH), rows[1]: int(Stream.CARRIED)}
    assert (log.log.phase == -1).all()
    assert (log.carried, log.nearly, log.known) == ({rows[0]}, {rows[1]}, {rows[0]})
    n = sum(len(one) for one in _pools(world))
    assert np.flatnonzero(verified_labels(log.log, n)).tolist() == [rows[0]]

    # so it is asked about, and what people say now decides
    world.settings = world.settings.model_copy(update={"question_budget": None})
    instance = str(pool.table.key[rows[1]])
    flipped: list[str] = []

    def refuse(key: str) -> bool:
        if f":{instance}:" in key:
            flipped.append(key)
            return True
        return False

    _finish(world, lambda: world.answer_all(flip=refuse))
    assert flipped
    verdicts = read_verdicts(world.open().paths.round(1)).rows
    assert (verdicts[instance].verdict, verdicts[instance].verified) == (-1, True)
    assert not any(
        f":{pool.table.key[rows[0]]}:" in q.key for q in _questions(world) if q.review_task_id == 1
    )


def _answer_of_an_earlier_round(
    world: World, pool: LabelPool, row: int, instance: str, rle: dict[str, Any], *, yes: bool
) -> None:
    question = _question(
        row, key=f"0:{instance}:0:0", project_id=world.project_id, round=0, label=pool.label,
        task_id=int(pool.table.task_id[row]), instance=instance, rle=rle, certificate=0, phase=-1, terms="",
    )  # fmt: skip
    with world.store.write() as session:
        session.add(QuestionRecord(**asdict(question), review_task_id=900_000 + row))
        session.add(
            AnswerRecord(
                project_id=world.project_id, annotation_id=900_000 + row, review_task_id=900_000 + row,
                question_key=question.key, worker=1, value="yes" if yes else "no", seconds=3.0,
                created_at=START, updated_at=START,
            )
        )  # fmt: skip


def test_answers_that_come_when_the_test_has_begun_move_no_tested_set(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, question_batch=20, policy_options=LOW)
    before = _until_tested(world)
    pool = _pools(world)[0]
    (row, *_) = [row for row in range(len(pool)) if row not in before.known]
    rle = dict(pool.table.rle(row))
    _answer_of_an_earlier_round(world, pool, row, str(pool.table.key[row]), rle, yes=True)

    def row_now() -> tuple[int, int]:
        log = _log(world).log
        (place,) = np.flatnonzero(log.item == row).tolist()
        return int(log.phase[place]), int(log.stream[place])

    assert row_now() == (-1, int(Stream.SEARCH))  # long before the test
    with world.store.write() as session:
        answer = session.scalars(select(AnswerRecord).where(AnswerRecord.question_key.like("0:%"))).one()
        answer.created_at = START + timedelta(days=4000)
    assert row_now() == (HARVEST_PHASE, int(Stream.HARVEST))


# ---- people who err ---------------------------------------------------------------------------------------


def told(minute: int, worker: int, yes: float, **more: Any) -> Told:
    return Told(START + timedelta(minutes=minute), minute, worker, yes, more.pop("seconds", 3.0), **more)


def test_what_the_detector_thinks_does_not_make_a_bad_mask_good() -> None:
    """Workers say yes to 9 of 10 good and to 2 of 10 bad masks; the detector is sure of all, wrongly so."""
    rng = np.random.default_rng(3)
    masks, good = [], rng.random(600) < 0.6
    for i, is_good in enumerate(good):
        asked = rng.choice(5, 2, replace=False)
        says = [float(rng.random() < (0.9 if is_good else 0.2)) for _ in asked]
        some = [told(3 * i + j, int(w), yes) for j, (w, yes) in enumerate(zip(asked, says, strict=True))]
        masks.append(AskedMask("disc", i, told=some))
    weighed = weigh(masks, Settings(review_overlap_max=2))
    p = np.array(weighed.p_yes)
    # two noes, or a yes and a no: nothing speaks for the mask (with the detector's word it was called good)
    votes = np.array([sum(one.yes for one in mask.told) for mask in masks])
    assert (p[votes == 0] < 0.2).all()
    assert p[votes == 1].mean() < 0.6
    assert (p[~good] > 0.5).mean() < 0.25
    first = np.array([some[0].yes for some in weighed.said])
    assert first[~good].mean() == pytest.approx(0.2, abs=0.06)


def test_asking_the_same_person_again_changes_no_first_answer() -> None:
    before = [told(1, 1, 0.0), told(2, 2, 1.0)]
    again = [*before, told(3, 1, 1.0), told(4, 3, 0.0, is_hidden=True), told(5, 4, np.nan, is_skip=True)]
    assert first_answers(before, 0.0) == before
    assert [(one.worker, one.annotation_id) for one in first_answers(again, 0.0)] == [
        (1, 1), (2, 2), (3, 4), (4, 5),
    ]  # fmt: skip


def test_a_mask_on_a_sheet_may_be_answered_faster_than_one_alone() -> None:
    alone, on_sheet = told(1, 1, 1.0, seconds=0.45), told(1, 1, 1.0, seconds=0.45, pace=0.3)
    assert first_answers([alone], 0.6) == []
    assert first_answers([on_sheet], 0.6) == [on_sheet]


def test_gold_counts_are_first_answers_to_gold_masks() -> None:
    def gold(i: int, truth: float, *said: Told) -> AskedMask:
        return AskedMask("disc", -1, gold=truth, told=list(said))

    masks = [
        gold(0, 1.0, told(1, 1, 1.0), told(2, 3, 0.0)),
        gold(1, 1.0, told(3, 1, np.nan)),
        gold(2, 0.0, told(4, 1, 0.0)),
        gold(3, 0.0, told(5, 2, 1.0), told(6, 1, 0.0)),
        AskedMask("disc", -1, told=[told(7, 1, 1.0)]),  # of an earlier round, truth not known
        AskedMask("disc", 4, told=[told(8, 1, 1.0)]),
    ]
    assert weigh(masks, Settings(review_overlap_max=3)).gold == (1, 2, 1, 2)


def test_in_a_crowd_the_policy_learns_from_gold_how_people_err(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, crowd=True, gold_share=0.4, repeat_share=0.0, question_batch=10)
    policy = _plan(world).outcome.policy
    assert isinstance(policy, Certified)
    assert policy.gold == (0, 0, 0, 0)
    clients = [world.studio.as_user(f"w{i}@example.com", "x") for i in range(3)]
    for _ in range(3):
        for client in clients:
            world.answer_all(client, limit=4)
        _look(world)
    plan = _plan(world)
    policy = plan.outcome.policy
    assert isinstance(policy, Certified)
    assert policy.gold == plan.log.gold
    assert plan.log.gold[0] == plan.log.gold[1] > 0  # these people do not err
    assert plan.log.gold[2] == plan.log.gold[3] > 0
    # single answers are taken as true, and options that say how people err are left as they are
    assert _policy(world, crowd=False, review_overlap_max=1).gold is None
    assert _policy(world, policy_options={"gold": [9, 10, 9, 10]}).gold == (9, 10, 9, 10)
    assert _policy(world, policy_options={"specificity": 0.9}).gold is None


def _policy(world: World, **settings: Any) -> Certified:
    project = world.open()
    record = step(trained_round, project)
    assert record is not None
    changed = project.settings.model_copy(update=settings)
    plan = decide(project.db, changed, project.paths, project.progress, {}, record, _pools(world))
    policy = plan.outcome.policy
    assert isinstance(policy, Certified)
    return policy


def test_where_people_err_a_mask_of_the_harvest_is_asked_about_again_of_somebody_else(
    make_world: MakeWorld,
) -> None:
    world = _reviewing(
        make_world,
        review_overlap_max=3,
        question_batch=20,
        policy_options={"sensitivity": 0.95, "specificity": 0.8, "purity": 0.9},
    )
    clients = [world.studio.as_user(f"w{i}@example.com", "x") for i in range(4)]

    def answer() -> None:
        for client in clients:
            world.answer_all(client, limit=5)

    _finish(world, answer)
    log = _log(world)
    n = Counter(log.log.item.tolist())
    twice = [item for item, count in n.items() if count > 1]
    assert twice
    assert max(n.values()) <= 3
    again = [q for q in log.questions if q.repeat > 0]
    assert len({(q.instance, q.repeat) for q in again}) == len(again) > 0
    for item in twice:
        mine = np.flatnonzero(log.log.item == item)
        assert set(log.log.stream[mine[1:]].tolist()) == {int(Stream.HARVEST)}
        assert set(log.log.phase[mine[1:]].tolist()) == {HARVEST_PHASE}
    # never the same person twice: each row is the answer of another one
    with world.store.read() as session:
        given = list(session.scalars(select(AnswerRecord)))
    instance_of = {q.key: q.instance for q in log.questions}
    people: dict[str, set[int]] = {}
    for answer_row in given:
        people.setdefault(instance_of[answer_row.question_key], set()).add(answer_row.worker)
    pools = _pools(world)
    keys = [str(key) for pool in pools for key in pool.table.key]
    assert all(n[item] <= len(people[keys[item]]) for item in n)


def test_what_is_known_answers_what_a_further_attempt_harvests(make_world: MakeWorld) -> None:
    """Else the attempt waits for ever: the answer of one more person is none to its own question."""
    world = _reviewing(make_world, question_batch=20, policy_options=LOW)
    log = _until_tested(world)
    known = np.array(sorted(log.known)[:2], np.int64)
    rows = QuestionRows(2)
    rows.add(known[:1], stream=Stream.HARVEST, inclusion=1.0, phase=search_phase(1))
    rows.add(known[1:], stream=Stream.HARVEST, inclusion=1.0, phase=HARVEST_PHASE)
    again, fresh = asked_again(replace(log, spent=frozenset()), rows.build())
    assert again.tolist() == known[1:].tolist()
    assert fresh.tolist() == [0]


def test_one_person_alone_is_not_asked_again(make_world: MakeWorld) -> None:
    world = _reviewing(
        make_world, review_overlap_max=3, question_batch=20, policy_options={"specificity": 0.8}
    )
    _finish(world, world.answer_all)
    assert all(question.repeat == 0 for question in _questions(world))


def test_an_experts_yes_counts_where_one_persons_yes_does_not(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, crowd=True, gold_share=0.0, repeat_share=0.0, question_batch=6)
    expert = world.studio.as_user("expert@example.com", "x")
    given = world.answer_all(expert, limit=3)
    _look(world)
    assert not read_verdicts(world.open().paths.round(1)).rows  # without gold nothing is certain
    with world.store.read() as session:
        worker = session.scalars(select(AnswerRecord.worker)).first()
    assert worker is not None
    world.settings = world.settings.model_copy(update={"experts": [worker]})
    _look(world)
    rows = read_verdicts(world.open().paths.round(1)).rows
    assert [(v.verdict, v.verified) for v in rows.values()] == [(1, True)] * given


def test_what_only_a_careless_person_answered_is_asked_again(make_world: MakeWorld) -> None:
    world = _reviewing(make_world, crowd=True, gold_share=0.45, repeat_share=0.0, question_batch=30)
    careless = world.studio.as_user("careless@example.com", "x")
    honest = world.studio.as_user("honest@example.com", "x")
    for _ in range(5):
        world.answer_all(careless, limit=6, flip=lambda key: True)
        world.answer_all(honest, limit=6)
        before = {question.key for question in _questions(world)}
        _look(world)
        workers = _log(world).workers
        if any(row["suspended"] for row in workers):
            break
    else:
        raise AssertionError("the careless one was never found")
    log = _log(world)
    (found,) = [row["worker"] for row in workers if row["suspended"]]
    with world.store.read() as session:
        told_by = [(row.question_key, row.worker) for row in session.scalars(select(AnswerRecord))]
    instance = {q.key: q.instance for q in log.questions}
    people: dict[str, set[int]] = {}
    for key, worker in told_by:
        people.setdefault(instance[key], set()).add(worker)
    keys = {str(key) for pool in _pools(world) for key in pool.table.key}
    alone = {name for name, some in people.items() if some == {found} and name in keys}
    again = {q.instance for q in log.questions if q.key not in before and q.repeat > 0}
    assert alone
    assert again == alone
