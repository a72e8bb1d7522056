"""Order: every task has a place of its own, it stays, and Label Studio gets it as scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from ml_backend.artifacts.order_lines import line_of
from ml_backend.artifacts.task_orders import TaskOrder, read_order
from ml_backend.errors import BadInput
from sync.projects.rebuild import rebuild
from sync.report.order_list import served_next
from sync.rounds.push import serving_order
from sync.rounds.round_records import trained_round
from sync.rounds.start_order import START, start_order, start_version, typical_first
from sync.rounds.task_queries import test_split as split_of
from sync.store.tables import AnnotationRecord
from sync.worker.look import LookReport
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]


def look(world: World) -> LookReport:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    return report


def order_of(world: World) -> TaskOrder:
    record = trained_round(world.open().db)
    assert record is not None
    found = read_order(world.open().paths.order(record.model_version))
    assert found is not None
    return found


def shown_scores(world: World, tasks: list[int]) -> list[float]:
    rows = [world.studio.predictions(task) for task in tasks]
    assert all(len(row) == 1 for row in rows)
    return [row[0].score for row in rows]


def served(world: World, users: int = 1) -> list[int]:
    """What users are served who take turns, each finishing the task at hand."""
    people = [world.studio.as_user(f"user{i}@example.com", "a long password") for i in range(users)]
    out = []
    while True:
        person = people[len(out) % users]
        task = person.next_task(world.project_id)
        if task is None:
            return out
        out.append(task.id)
        person.create_annotation(task.id, [])


@pytest.mark.parametrize("method", ["ours", "entropy", "max_probability", "random", "sequential", "tta"])
def test_scores_are_all_different_and_served_in_order(make_world: MakeWorld, method: str) -> None:
    world = make_world(20, question_budget=0, order=method)
    world.label(*range(6))
    look(world)
    order = order_of(world)
    tasks = world.tasks[6:]
    assert order.task_id.tolist() == tasks
    scores = shown_scores(world, tasks)
    assert scores == order.score.tolist()
    assert len(set(scores)) == len(tasks)
    record = trained_round(world.open().db)
    assert record is not None
    upcoming = [task for task, _ in step(serving_order, world.open(), record)]
    assert upcoming == sorted(tasks, key=dict(zip(tasks, scores, strict=True)).__getitem__)
    if method == "sequential":
        assert upcoming == tasks
    if method == "tta":
        entry = order.entry(tasks[0])
        assert entry is not None
        assert "tta" in entry.doubts
    assert served(world, users=2) == upcoming


def test_the_most_doubtful_picture_comes_first_without_spread(make_world: MakeWorld) -> None:
    world = make_world(20, question_budget=0, order_diversity=0, order_balance=0, order_explore=0)
    world.label(*range(6))
    look(world)
    order = order_of(world)
    by_score = np.argsort(order.score)
    assert (np.diff(order.doubt[by_score]) <= 0).all()
    assert order.about["scorer"]["fitted_on"] == 0, "three test pictures teach nothing"


def test_finished_tasks_move_no_other_and_new_ones_come_in_between(make_world: MakeWorld) -> None:
    world = make_world(20, question_budget=0, retrain_after=1000)
    world.label(*range(6))
    look(world)
    before = dict(zip(world.tasks[6:], shown_scores(world, world.tasks[6:]), strict=True))
    world.label(8, 11)
    assert look(world).pushed is None
    data = [world.studio.task(world.tasks[n]).data for n in (12, 13, 14)]
    new = world.studio.import_tasks(world.project_id, data)
    report = look(world)
    assert report.pushed is not None
    assert report.pushed.sent == 3
    after = dict(zip(world.tasks[6:], shown_scores(world, world.tasks[6:]), strict=True))
    assert after == before
    fresh = shown_scores(world, new)
    assert len({*fresh, *before.values()}) == len(before) + 3
    assert all(0 < score < 1 for score in fresh)
    assert look(world).pushed is None


def test_an_order_without_room_is_made_again_once(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(20, question_budget=0, retrain_after=1000)
    world.label(*range(6))
    look(world)

    def full(*_: object) -> None:
        raise ValueError("there is no room between two scores")

    keys = [order_of(world).key]
    for number in (12, 13):
        world.studio.import_tasks(world.project_id, [world.studio.task(world.tasks[number]).data])
        with monkeypatch.context() as patch:
            patch.setattr("sync.rounds.order.place_among", full)
            look(world)
        keys.append(order_of(world).key)
        assert look(world).pushed is None
        assert order_of(world).key == keys[-1]
    assert len(set(keys)) == 3


def test_another_order_is_pushed_as_a_new_set(make_world: MakeWorld) -> None:
    world = make_world(20, question_budget=0)
    world.label(*range(6))
    look(world)
    label = world.studio.project(world.project_id).model_version
    world.settings = world.settings.for_project({"order": "sequential"})
    report = look(world)
    assert report.pushed is not None
    assert report.pushed.version != label
    assert list(world.studio.prediction_versions(world.project_id)) == [report.pushed.version]
    assert served(world) == world.tasks[6:]


def test_the_order_survives_a_rebuild(make_world: MakeWorld) -> None:
    world = make_world(16, question_budget=0)
    world.label(*range(6))
    look(world)
    before = order_of(world)
    rebuild(world.settings, world.store, world.studio)
    assert look(world).pushed is None
    assert order_of(world).score.tolist() == before.score.tolist()


# ---- before there is a model ------------------------------------------------------------------------


@pytest.mark.parametrize(("test_min", "fraction"), [(2, 0.25), (1, 0.1), (4, 0.5)])
def test_every_beginning_holds_the_random_ones_that_a_test_split_needs(
    test_min: int, fraction: float
) -> None:
    rng = np.random.default_rng(1)
    tasks = list(range(100, 160))
    uniform = [int(t) for t in rng.permutation(tasks)[:30]]
    ranked = start_order(
        tasks, rng.normal(size=(60, 5)).astype(np.float32), uniform,
        groups=5, test_fraction=fraction, test_min=test_min,
    )  # fmt: skip
    assert sorted(ranked) == tasks
    assert [task for task in ranked if task in set(uniform)] == uniform, "in the order of the draw"
    for m in range(1, 41):
        needed = min(max(test_min, int(np.ceil(fraction * m))), m // 2)
        assert len(set(ranked[:m]) & set(uniform)) >= needed


def test_typical_pictures_are_served_first_and_the_split_is_drawn_from_random_ones(
    make_world: MakeWorld,
) -> None:
    world = make_world(24, question_budget=0, min_finished=8, test_fraction=0.25, order_start=True)
    look(world)
    order = read_order(world.open().paths.order(START))
    assert order is not None
    version = start_version(world.project_id)
    assert world.studio.prediction_versions(world.project_id) == {version: 24}
    assert world.studio.project(world.project_id).model_version == version
    assert all(not row.result for task in world.tasks for row in world.studio.predictions(task))
    expected = [int(t) for t in order.task_id[np.argsort(order.score)]]
    person = world.studio.as_user("ann@example.com", "a long password")
    for place in range(8):
        task = person.next_task(world.project_id)
        assert task is not None
        assert task.id == expected[place]
        number = world.tasks.index(task.id)
        person.create_annotation(task.id, world.scenes[number].result(), lead_time_s=5.0)
    look(world)
    assert trained_round(world.open().db) is not None
    split = split_of(world.open().db, 1)
    assert len(split) == 2
    assert split <= set(order.task_id[order.explored].tolist())
    assert version not in world.studio.prediction_versions(world.project_id)


def test_a_look_before_the_training_sends_once_and_new_tasks_later(make_world: MakeWorld) -> None:
    world = make_world(10, question_budget=0, order_start=True)
    calls: list[str] = []
    look(world)
    world.studio.before_call = calls.append
    look(world)
    assert not {"prediction_versions", "predicted_tasks", "import_predictions"} & set(calls)
    (new,) = world.studio.import_tasks(world.project_id, [world.studio.task(world.tasks[3]).data])
    before = shown_scores(world, world.tasks)
    look(world)
    assert shown_scores(world, world.tasks) == before
    assert len(world.studio.predictions(new)) == 1
    assert len({*before, world.studio.predictions(new)[0].score}) == 11


@pytest.mark.parametrize("options", [{"order": "random", "order_start": True}, {}])
def test_no_cold_start_where_it_is_not_wanted(make_world: MakeWorld, options: dict[str, Any]) -> None:
    world = make_world(6, question_budget=0, **options)
    look(world)
    assert world.studio.prediction_versions(world.project_id) == {}


def test_a_kill_in_the_cold_start_is_made_good(make_world: MakeWorld) -> None:
    world = make_world(12, question_budget=0, push_rows=5, order_start=True)
    places: list[str] = []

    def stop(place: str) -> None:
        places.append(place)
        if places.count("start.chunk") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.worker(checkpoint=stop).look(world.project_id)
    assert sum(world.studio.prediction_versions(world.project_id).values()) == 5
    look(world)
    assert all(len(world.studio.predictions(task)) == 1 for task in world.tasks)
    assert step(typical_first, world.open()) == 0


def test_a_picture_that_cannot_be_read_has_a_place_too(make_world: MakeWorld) -> None:
    world = make_world(8, question_budget=0, order_start=True)
    (world.images / "005.png").write_text("no picture")
    look(world)
    assert len(world.studio.predictions(world.tasks[5])) == 1


# ---- why --------------------------------------------------------------------------------------------


def test_the_command_lists_the_order_with_reasons(make_world: MakeWorld) -> None:
    world = make_world(20, question_budget=0, order_explore=0.3)
    world.label(*range(6))
    look(world)
    world.label(9)
    look(world)
    lines = served_next(world.settings, world.store, world.project_id, top=5)
    record = trained_round(world.open().db)
    assert record is not None
    upcoming = [task for task, _ in step(serving_order, world.open(), record)]
    assert [line.task for line in lines] == upcoming[:5]
    assert [(line.place, line.of) for line in lines] == [(i + 1, 13) for i in range(5)]
    (third,) = served_next(world.settings, world.store, world.project_id, task=upcoming[2])
    assert third == lines[2]
    everything = served_next(world.settings, world.store, world.project_id, top=100)
    assert any(line.drawn_at_random and "random" in line.why for line in everything)
    assert any("may be wrong" in line.why or "Doubt" in line.why for line in everything)
    assert len({line.why for line in everything}) > 3
    with pytest.raises(BadInput, match="no place"):
        served_next(world.settings, world.store, world.project_id, task=world.tasks[9])
    with pytest.raises(BadInput, match="does not take part"):
        served_next(world.settings, world.store, 999)


def test_before_there_is_a_model_the_reasons_are_others(make_world: MakeWorld) -> None:
    world = make_world(12, question_budget=0, order_start=True)
    with pytest.raises(BadInput, match="no order yet"):
        served_next(world.settings, world.store, world.project_id)
    look(world)
    reasons = {line.why for line in served_next(world.settings, world.store, world.project_id)}
    assert len(reasons) == 2
    assert any("Typical" in reason for reason in reasons)


def test_the_line_is_in_the_prediction_where_the_config_has_a_place_for_it(make_world: MakeWorld) -> None:
    world = make_world(16, question_budget=0)
    area = '<TextArea name="why" toName="image" editable="false" maxSubmissions="1"/></View>'
    row = world.studio._db["projects"][str(world.project_id)]
    row["label_config"] = row["label_config"].strip().removesuffix("</View>") + area
    world.label(*range(6))
    look(world)
    order = order_of(world)
    task = world.tasks[8]
    (shown,) = world.studio.predictions(task)
    said = [item for item in shown.result if item["type"] == "textarea"]
    assert [item["value"]["text"] for item in said] == [[line_of(order, task)]]
    person = world.studio.as_user("ann@example.com", "a long password")
    person.create_annotation(task, [dict(item) for item in shown.result], lead_time_s=3.0)
    before = len(shown.result) - 1
    look(world)
    with world.store.read() as session:
        kept = session.scalars(select(AnnotationRecord).where(AnnotationRecord.task_id == task)).one()
    assert (len(kept.regions), kept.broken) == (before, "")
