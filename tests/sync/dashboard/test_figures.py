"""The figures of the dashboard on projects whose rounds were played on the fake Label Studio."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sqlalchemy import select

from ml_backend.artifacts.mistakes import Finding, MistakeTable, write_mistakes
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import StudioError
from ml_backend.learners.base import Evaluation
from sync.dashboard.annotations import annotation_lines
from sync.dashboard.collect import collect_project, fingerprint, project_record
from sync.dashboard.figures import ProjectFigures, mean_range, median_range, share_range
from sync.dashboard.live import live_state
from sync.dashboard.masks import mask_rows
from sync.dashboard.render import render_report
from sync.report.project_lines import show_figures
from sync.review.outbox import NewAnswer, put_answer
from sync.rounds.test_split import repartition
from sync.store.review_tables import InviteRecord
from sync.store.tables import AnnotationRecord, ProjectRecord, RoundRecord, TaskRecord
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def figures(world: World, **options: Any) -> ProjectFigures:
    return collect_project(world.settings, world.store, world.project_id, **options)


def play(world: World, *numbers: int) -> None:
    """People finish these tasks; a round is made of them and all its questions are answered."""
    world.label(*numbers)
    worker = world.worker()
    report = worker.look(world.project_id, force_round=True)
    assert report is not None
    assert report.error == ""
    for _ in range(8):
        world.answer_all()
        worker.look(world.project_id)


def certified_world(make_world: MakeWorld) -> World:
    world = make_world(50, policy_options={"purity": 0.6}, question_batch=60, test_min=10, test_fraction=0.5)
    play(world, *range(20))
    return world


def test_a_new_project_has_figures_too(make_world: MakeWorld) -> None:
    world = make_world(4)
    found = figures(world)
    assert (found.tasks, found.finished, found.round) == (0, 0, 0)
    assert found.next_training.startswith("0 of 5 finished tasks until the first training")
    assert found.curve == found.masks == found.versions == found.troubles == ()
    assert found.hours.accepted == 0
    world.label(0, 1)
    world.worker().look(world.project_id)
    found = figures(world)
    assert (found.tasks, found.finished) == (4, 2)
    assert found.next_training.startswith("2 of 5 finished tasks")
    assert found.masks == ()
    assert found.drawn == 2 * 3, "what people drew counts before the first round"
    page = render_report(
        [(found, live_state(world.settings, world.store, project_record(world.store, found.id)))]
    )
    assert "<small>masks</small><b>6</b><span>6 drawn</span>" in page


def test_masks_by_origin_add_up_to_what_was_drawn_and_decided(make_world: MakeWorld) -> None:
    world = certified_world(make_world)
    found = figures(world)
    row = found.masks[-1]
    assert found.drawn == row.drawn
    verdicts = read_verdicts(world.open().paths.round(row.round)).rows.values()
    assert row.drawn == 20 * 3
    assert row.verified == sum(v.verdict > 0 and v.verified for v in verdicts) > 0
    assert row.propagated == sum(v.verdict > 0 and not v.verified for v in verdicts) > 0
    by_label = {one.label: one for one in found.pools}
    assert set(by_label) == set(LABELS)
    assert sum(one.pool for one in found.pools) == 30 * 3
    assert sum(one.propagated for one in found.pools) == row.propagated
    assert all(one.verified + one.propagated + one.rejected + one.open == one.pool for one in found.pools)
    assert sum(one.answered for one in found.pools) == found.questions[-1].answered


def test_masks_of_a_task_that_somebody_finished_count_as_drawn_alone(make_world: MakeWorld) -> None:
    world = certified_world(make_world)
    before = figures(world)
    world.label(*range(20, 30))
    world.worker().look(world.project_id)
    after = figures(world)
    assert after.round == before.round, "no new round: only what people drew changed"
    assert after.masks[-1].drawn == before.masks[-1].drawn + 30
    lost = before.masks[-1].verified + before.masks[-1].propagated
    lost -= after.masks[-1].verified + after.masks[-1].propagated
    assert 0 < lost <= 30
    assert after.hours.accepted == before.hours.accepted - lost


def test_masks_found_where_somebody_only_tagged_still_count(make_world: MakeWorld) -> None:
    world = certified_world(make_world)
    before = figures(world).masks[-1]
    world.label(*range(20, 30))
    world.worker().look(world.project_id)
    tags = [{"id": "", "label": LABELS[0], "rle": None, "box_xyxy": None}]
    with world.store.write() as session:
        for task in world.tasks[20:30]:
            for record in session.scalars(select(AnnotationRecord).where(AnnotationRecord.task_id == task)):
                record.regions = tags
    opened = world.open()
    lines = annotation_lines(opened.db, without_tags=True)
    assert {line.task_id for line in lines if line.tagged_only} == set(world.tasks[20:30])
    with world.store.read() as session:
        rounds = list(session.scalars(select(RoundRecord).order_by(RoundRecord.number)))
    row = mask_rows(opened.paths, lines, [one for one in rounds if one.figures])[-1]
    assert (row.drawn, row.verified, row.propagated) == (before.drawn, before.verified, before.propagated)
    assert row.finished == before.finished + 10
    assert not any(line.tagged_only for line in annotation_lines(opened.db, without_tags=False))


def test_hours_follow_from_measured_times_and_the_cost_model(make_world: MakeWorld) -> None:
    world = certified_world(make_world)
    hours = figures(world).hours
    row = figures(world).masks[-1]
    assert hours.drawing == 20 * 20.0
    assert hours.tasks == 20
    assert hours.accepted == row.verified + row.propagated
    assert hours.accepted_low < hours.accepted_high <= hours.accepted
    assert hours.accepted_low >= row.verified
    assert hours.saved_low == pytest.approx(80.0 * hours.accepted_low - hours.answering)
    assert hours.saved_high == pytest.approx(80.0 * hours.accepted_high - hours.answering)
    assert "80 s" in hours.source
    assert hours.own is not None
    assert hours.own.value == pytest.approx(20.0 / 3)


def test_a_task_left_open_over_night_counts_half_an_hour(make_world: MakeWorld) -> None:
    world = make_world(4)
    world.label(0, 1)
    world.studio.create_annotation(world.tasks[2], world.scenes[2].result(), lead_time_s=36_000.0)
    world.studio.create_annotation(world.tasks[3], world.scenes[3].result(), lead_time_s=None)
    world.worker().look(world.project_id)
    hours = figures(world).hours
    assert (hours.drawing, hours.tasks, hours.untimed, hours.cut) == (20.0 + 20.0 + 1800.0, 3, 1, 1)


def test_a_skipped_sheet_counts_its_time_once(make_world: MakeWorld) -> None:
    world = make_world(24, policy="verify-all", review_form="sheet", question_batch=40)
    world.label(*range(8))
    world.worker().look(world.project_id)
    task = world.studio.next_task(world.review_projects()["sheet"])
    assert task is not None
    world.studio.create_annotation(task.id, [], lead_time_s=30.0, was_cancelled=True)
    world.worker().look(world.project_id)
    hours = figures(world).hours
    assert (hours.answering, hours.answers) == (30.0, 1)


def test_few_test_pictures_give_no_figure_but_their_number(make_world: MakeWorld) -> None:
    world = make_world(16, test_min=2)
    play(world, *range(8))
    (point,) = figures(world).curve
    assert point.quality is None
    assert point.test_pictures == 2
    (version,) = figures(world).versions
    assert (version.quality, version.serving) == (None, True)


def test_the_curve_names_the_split_and_the_metric_of_the_kind(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"AP50": (0.7, 0.6, 0.8), "AP": (0.5, 0.4, 0.6), "AP/disc": (0.9, 0.8, 1.0)}
    monkeypatch.setattr("tests.sync.tiny_learner.Evaluation", lambda n, k, _: Evaluation(12, k, metrics))
    world = make_world(30, question_budget=0)
    world.label(*range(8))
    for number in range(3):
        if number == 2:
            project = world.open()
            step(repartition, project, world.tasks[:8])
        world.worker().look(world.project_id, force_round=True)
        world.label(8 + number)
    curve = figures(world).curve
    assert [(p.round, p.split, p.metric) for p in curve] == [(1, 1, "AP"), (2, 1, "AP"), (3, 2, "AP")]
    assert [p.finished for p in curve] == [8, 9, 10]
    first = curve[0].quality
    assert first is not None
    assert (first.value, first.low, first.high, first.n) == (0.5, 0.4, 0.6, 12)


def test_agreement_counts_what_the_prediction_had_and_what_people_kept(make_world: MakeWorld) -> None:
    world = make_world(20, question_budget=0)
    world.label(*range(6))
    world.worker().look(world.project_id)
    with world.store.write() as session:  # the fake lives in the past: its people came before the round
        record = session.scalars(select(RoundRecord)).one()
        record.started_at = session.scalars(select(AnnotationRecord.created_at)).all()[-1] + timedelta(
            hours=1
        )
        record.figures = {"train": {"seconds": 2.0}, "infer": {"seconds": 2.0}}
        when = record.started_at + timedelta(hours=1)
    world.label(6, 7)
    world.studio.create_annotation(world.tasks[8], world.scenes[8].result()[:1], lead_time_s=10.0)
    step_pull(world)
    with world.store.write() as session:
        for row in session.scalars(
            select(AnnotationRecord).where(AnnotationRecord.task_id >= world.tasks[6])
        ):
            row.created_at = when
    kept: dict[object, object] = {}
    invite(world, "Ada", label_user=1)
    (person,) = figures(world, kept=kept).annotators
    assert (person.name, person.tasks, person.compared) == ("Ada", 9, 3)
    assert person.found is not None
    assert person.kept is not None
    assert (person.found.value, person.found.n) == (1.0, 7)
    assert (person.kept.n, round(person.kept.value * 9)) == (9, 7)
    assert person.seconds is not None
    assert (person.seconds.value, person.seconds.n) == (20.0, 9)
    before = dict(kept)
    assert len([name for name in before if isinstance(name, tuple) and name[0] == "agreement"]) == 3
    assert figures(world, kept=kept).annotators == (person,)
    assert kept == before, "nothing is compared twice"


def invite(world: World, name: str, **users: int) -> None:
    now = datetime.now(UTC)
    row = InviteRecord(
        id=name, person=name, name=name, project_id=world.project_id, scopes=[], created_at=now,
        expires_at=now, revoked_at=None, seen_at=None, **users,
    )  # fmt: skip
    with world.store.write() as session:
        session.add(row)


def test_invites_are_listed_with_what_became_of_them(make_world: MakeWorld) -> None:
    world = make_world(4)
    for number, name in enumerate(("Ana", "Ben", "Cleo"), 1):
        invite(world, name, review_user=number)
    now = datetime.now(UTC)
    answer = NewAnswer("u1", "questions", world.project_id, 1, "single", "disc", {}, (), (), False, 1.0)
    skip = NewAnswer("u2", "questions", world.project_id, 2, "single", "disc", {}, (), (), True, 1.0)
    with world.store.write() as session:
        ana, ben = (session.get_one(InviteRecord, name) for name in ("Ana", "Ben"))
        ana.expires_at = now + timedelta(days=3)
        ana.scopes, ana.seen_at = ["questions", "classes"], now
        ben.revoked_at = now
        for one in (answer, skip):
            put_answer(session, "Ana", 1, one, now)
    rows = {row.name: row for row in figures(world).invites}
    assert next(iter(rows)) == "Ana", "those that hold come first"
    assert [rows[name].state for name in ("Ana", "Ben", "Cleo")] == ["open", "withdrawn", "expired"]
    assert (rows["Ana"].answers, rows["Ben"].answers) == (1, 0)
    assert rows["Ana"].may == "answer questions and name classes"
    assert rows["Ana"].seen_at == pytest.approx(now.timestamp())
    assert (rows["Ana"].expires_at, rows["Cleo"].seen_at) == (pytest.approx(now.timestamp() + 3 * 86_400), 0)
    before = fingerprint(world.settings, world.store, world.project_id)
    with world.store.write() as session:
        session.get_one(InviteRecord, "Ana").expires_at = now
    assert fingerprint(world.settings, world.store, world.project_id) != before, "it ran out meanwhile"


def test_people_are_called_as_they_were_invited_else_as_label_studio_calls_them(
    make_world: MakeWorld,
) -> None:
    world = make_world(6)
    ben = world.studio.add_person("ben@example.com", "Ben Miller")
    cleo = world.studio.add_person("cleo@example.com", "")
    dora = world.studio.add_person("dora@example.com", "Dora in Label Studio")
    invite(world, "Dora", label_user=dora)
    for task, user in zip(world.tasks, (ben, cleo, dora, 999), strict=False):
        row = world.studio.create_annotation(task, world.scenes[0].result(), lead_time_s=5.0)
        world.studio._db["annotations"][str(row.id)]["completed_by"] = user
    before = fingerprint(world.settings, world.store, world.project_id)
    worker = world.worker()
    worker.look(world.project_id)
    names = {row.user: row.name for row in figures(world).annotators}
    assert names == {ben: "Ben Miller", cleo: "cleo@example.com", dora: "Dora", 999: ""}
    assert fingerprint(world.settings, world.store, world.project_id) != before
    calls: list[str] = []
    world.studio.before_call = calls.append
    worker.look(world.project_id)
    assert "users" not in calls, "a look at an unchanged project asks for no names"
    world.label(4)
    worker.look(world.project_id)
    assert "users" in calls, "somebody new has worked"


def test_a_token_that_may_not_list_users_stops_nothing(make_world: MakeWorld) -> None:
    world = make_world(6)

    def refuse(call: str) -> None:
        if call == "users":
            raise StudioError("you may not", status=403)

    world.studio.before_call = refuse
    world.label(0, 1)
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    (row,) = figures(world).annotators
    assert (row.name, row.tasks) == ("", 2)


def test_answers_on_their_way_are_told(make_world: MakeWorld) -> None:
    world = make_world(4)
    before = fingerprint(world.settings, world.store, world.project_id)
    answer = NewAnswer("u1", "questions", world.project_id, 1, "single", "disc", {}, (), (), False, 1.0)
    with world.store.write() as session:
        put_answer(session, "p", 1, answer, datetime.now(UTC))
    found = figures(world)
    assert found.backlog == ("1 answer of the review page on the way to Label Studio",)
    assert fingerprint(world.settings, world.store, world.project_id) != before


def test_likely_mistakes_are_listed_with_their_tasks(make_world: MakeWorld) -> None:
    world = make_world(12, question_budget=0, studio_public_url="https://labels.example/")
    world.label(*range(6))
    world.worker().look(world.project_id)
    project = world.open()
    version = figures(world).serving
    before = fingerprint(world.settings, world.store, world.project_id)
    found = [Finding(world.tasks[i], "overlooked", 0.9 - i / 50, f"a disc is missing {i}") for i in range(12)]
    about = {"judged": {version: 5}, "finished": 6}
    write_mistakes(project.paths.mistakes(version), MistakeTable("k", about, tuple(found)))
    shown = figures(world)
    assert (shown.mistake_count, shown.mistakes_judged, len(shown.mistakes)) == (12, 5, 10)
    assert shown.mistakes[0].reason == "a disc is missing 0"
    address = f"https://labels.example/projects/{world.project_id}/data"
    assert shown.mistakes[0].url == f"{address}?task={world.tasks[0]}"
    assert show_figures(world.settings, world.store, world.project_id)["url"] == address
    assert fingerprint(world.settings, world.store, world.project_id) != before


def step_pull(world: World) -> None:
    from sync.rounds.pull import pull

    step(pull, world.open())


def test_workers_are_counted_without_a_crowd_model_and_judged_with_one(make_world: MakeWorld) -> None:
    world = make_world(24, policy="verify-all", question_batch=20)
    play(world, *range(8))
    (worker,) = figures(world).workers
    assert worker.answers == figures(world).questions[-1].answered
    assert (worker.seconds, worker.agreement, worker.suspended) == (2.0, None, False)

    crowd = make_world(
        24, name="crowd", policy="verify-all", review_overlap=2, review_overlap_max=3, gold_share=0.3
    )
    crowd.label(*range(8))
    look = crowd.worker()
    look.look(crowd.project_id)
    for name in ("ann", "bob"):
        crowd.answer_all(crowd.studio.as_user(f"{name}@example.com", "a password"))
    look.look(crowd.project_id)
    rows = figures(crowd).workers
    assert len(rows) == 2
    assert all(row.agreement is not None and row.answers > 0 for row in rows)
    judged = [share for row in rows for share in (row.good, row.bad) if share is not None]
    assert judged
    assert all(0 <= share.low <= share.value <= share.high <= 1 and share.n for share in judged)
    assert sum(share.n for share in judged) == sum(row.gold for row in rows)


def test_troubles_say_what_to_do(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(12, question_budget=0, studio_public_url="https://labels.example")
    (world.images / "009.png").write_bytes(b"no picture")
    world.label(*range(6))
    monkeypatch.setenv("TINY_FAIL", "1")
    world.worker().look(world.project_id)
    monkeypatch.delenv("TINY_FAIL")
    whats = [row.what for row in figures(world).troubles]
    assert whats == ["The last look at this project failed", "Round 1 could not be trained"]
    world.worker().look(world.project_id, force_round=True)
    (row,) = figures(world).troubles
    assert row.what == f"Task {world.tasks[9]} is left out"
    assert row.url == f"https://labels.example/projects/{world.project_id}/data?task={world.tasks[9]}"
    assert all(one.why and one.todo for one in figures(world).troubles)


def test_figures_are_json_and_a_look_without_news_leaves_the_fingerprint(make_world: MakeWorld) -> None:
    world = certified_world(make_world)
    json.dumps(asdict(figures(world)), allow_nan=False)
    before = fingerprint(world.settings, world.store, world.project_id)
    world.worker().look(world.project_id)
    assert fingerprint(world.settings, world.store, world.project_id) == before
    seen = {before}
    world.label(30)
    world.worker().look(world.project_id)
    seen.add(fingerprint(world.settings, world.store, world.project_id))
    with world.store.write() as session:
        session.get_one(ProjectRecord, world.project_id).error = "something"
    seen.add(fingerprint(world.settings, world.store, world.project_id))
    with world.store.write() as session:
        session.get_one(TaskRecord, world.tasks[40]).image_error = "gone"
    seen.add(fingerprint(world.settings, world.store, world.project_id))
    assert len(seen) == 4


def test_intervals_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        found = median_range(rng.exponential(1.0, 25))
        assert found is not None
        hits += found.low <= np.log(2.0) <= found.high
    assert stats.binom.cdf(hits, 400, 0.95) > 1e-4
    means = 0
    for _ in range(200):
        masks = rng.integers(1, 9, 60)
        found = mean_range(masks * rng.exponential(5.0, 60), masks)
        assert found is not None
        means += found.low <= 5.0 <= found.high
    assert means > 0.86 * 200
    seconds, drawn = rng.gamma(2.0, 30.0, 2001), rng.poisson(3.0, 2001)
    many, resampled = mean_range(seconds, drawn), mean_range(seconds[:-1], drawn[:-1])
    assert many is not None
    assert resampled is not None
    # above 2,000 cases by a formula instead of resampling: the same interval
    assert many.low == pytest.approx(resampled.low, abs=0.15)
    assert many.high == pytest.approx(resampled.high, abs=0.15)
    assert many.high - many.low > 1.0
    assert (share_range(0, 0), median_range([]), mean_range([], [])) == (None, None, None)
    few = median_range([3.0, 1.0, 2.0])
    assert few is not None
    assert (few.value, few.low, few.high) == (2.0, 1.0, 3.0)
