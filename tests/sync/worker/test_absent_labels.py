"""Weak projects: somebody tagged a picture, so what a model finds there of other labels is wrong for sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ml_backend.artifacts.pools import read_pool
from ml_backend.artifacts.verdicts import Verdict, read_verdicts, write_verdicts
from ml_backend.label_studio.config_builder import build_label_config
from sync.exchange.collect import collect
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.rounds.cluster import LabelPool, load_label_pools
from sync.rounds.pull import pull
from sync.rounds.round_records import trained_round
from sync.rounds.test_split import newest_split
from sync.store.tables import QuestionRecord, RoundRecord
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
WEAK = build_label_config(LABELS, kind="weak")
DRAWN, TAGGED, OPEN = range(6), range(6, 12), range(12, 18)


def say(world: World, number: int, *labels: str) -> None:
    """Somebody says which labels this picture has."""
    picked = {"type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": list(labels)}}
    world.studio.create_annotation(world.tasks[number], [picked] if labels else [], lead_time_s=2.0)


def tag(world: World, *numbers: int) -> None:
    """Somebody says of these pictures that they show discs alone, though they have bars, too."""
    for number in numbers:
        say(world, number, "disc")


def look(world: World) -> RoundRecord:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    record = trained_round(world.open().db)
    assert record is not None
    return record


def shown(world: World, number: int) -> set[str]:
    """Labels of the masks that people see on a picture."""
    (prediction,) = world.studio.predictions(world.tasks[number])
    return {label for item in prediction.result for label in item["value"].get("brushlabels", ())}


def tasks_with(world: World, record: RoundRecord, label: str) -> set[int]:
    """Numbers of the pictures on which the model found something of a label."""
    pool = read_pool(world.open().paths.pool(record.model_version), columns=("key", "task_id", "label"))
    return {world.tasks.index(int(task)) for task in pool.task_id[pool.label == label]}


def asked(world: World, label: str) -> set[int]:
    """Numbers of the pictures that somebody is asked about."""
    with world.store.read() as session:
        rows = list(session.query(QuestionRecord))
    return {world.tasks.index(row.task_id) for row in rows if row.label == label and row.review_task_id}


def weak_world(make_world: MakeWorld, **options: Any) -> World:
    world = make_world(18, config=WEAK, review_form="single", push_min_score=0.0, **options)
    world.label(*DRAWN)
    return world


def test_other_labels_of_a_tagged_picture_are_neither_asked_about_nor_shown(make_world: MakeWorld) -> None:
    world = weak_world(make_world, policy="verify-all", question_batch=500)
    tag(world, *TAGGED)
    record = look(world)
    assert tasks_with(world, record, "bar") & set(TAGGED), "the model must find what people deny"
    (pool,) = (p for p in load_pools(world, record) if p.label == "bar")
    assert {world.tasks.index(int(task)) for task in pool.table.task_id} <= set(OPEN)
    assert asked(world, "bar")
    assert asked(world, "bar") <= set(OPEN)
    assert asked(world, "disc") & set(TAGGED)
    assert all(shown(world, number) <= {"disc"} for number in TAGGED)
    assert any("bar" in shown(world, number) for number in OPEN)


def test_tags_that_come_later_decide_about_masks_of_the_round(make_world: MakeWorld) -> None:
    world = weak_world(make_world, policy="verify-all", question_batch=6)
    record = look(world)
    late = sorted(tasks_with(world, record, "bar") - set(DRAWN) - asked(world, "bar"))[:3]
    assert late
    assert all("bar" in shown(world, number) for number in late)
    before = asked(world, "bar")
    tag(world, *late)
    for _ in range(60):
        world.answer_all()
        record = look(world)
        if record.review_done:
            break
    assert record.review_done
    assert asked(world, "bar") >= before
    assert not asked(world, "bar") & set(late)
    assert all(shown(world, number) <= {"disc"} for number in late)
    verdicts = read_verdicts(world.open().paths.round(record.number))
    pool = next(p for p in load_pools(world, record) if p.label == "bar")
    rows = np.flatnonzero(np.isin(pool.table.task_id, [world.tasks[number] for number in late]))
    assert len(rows)
    assert {verdicts.rows[str(pool.table.key[row])].verdict for row in rows} == {-1}


def test_an_answer_that_denies_the_tags_does_not_count_and_the_tags_may_be_mended(
    make_world: MakeWorld,
) -> None:
    world = weak_world(make_world, policy="verify-all", question_batch=500)
    record = look(world)
    number = min(asked(world, "bar"))
    world.answer_all()  # truthfully: yes
    record = look(world)
    assert accepted(world, record, number) == {1}
    tag(world, number)
    record = look(world)
    assert accepted(world, record, number) == {-1}
    assert shown(world, number) <= {"disc"}
    say(world, number, "disc", "bar")
    record = look(world)
    assert accepted(world, record, number) == {1}
    assert "bar" in shown(world, number)


def test_what_an_older_round_accepted_is_not_exported_where_the_tags_deny_it(make_world: MakeWorld) -> None:
    world = weak_world(make_world, question_budget=0)
    record = look(world)
    project = world.open()
    pool = read_pool(project.paths.pool(record.model_version))
    nan = float("nan")
    rows = [
        Verdict(str(key), str(label), 1, True, -1, -1, nan, nan, nan, "verdict")
        for key, label in zip(pool.key, pool.label, strict=True)
    ]
    write_verdicts(project.paths.round(record.number), rows, guard=project.db.guard)
    numbers = sorted(tasks_with(world, record, "bar") - set(DRAWN))[:2]
    tag(world, numbers[0])
    project = world.open()
    step(pull, project)
    content = collect(project.db, project.config.wanted, project.paths, project.images)
    found = {picture.task_id: {item.label for item in picture.items} for picture in content.pictures}
    assert "bar" not in found.get(world.tasks[numbers[0]], set())
    assert "bar" in found[world.tasks[numbers[1]]]


def load_pools(world: World, record: RoundRecord) -> list[LabelPool]:
    return step(load_label_pools, world.open(), record)


def accepted(world: World, record: RoundRecord, number: int) -> set[int]:
    """Verdicts on the bars of a picture."""
    verdicts = read_verdicts(world.open().paths.round(record.number))
    pool = next(p for p in load_pools(world, record) if p.label == "bar")
    rows = np.flatnonzero(pool.table.task_id == world.tasks[number])
    return {verdicts.rows[str(pool.table.key[row])].verdict for row in rows}


def test_status_names_the_test_pictures_that_nobody_drew_on(make_world: MakeWorld) -> None:
    world = weak_world(make_world)
    tag(world, *TAGGED)
    look(world)
    found = status(world.settings, world.store)
    (project,) = found["projects"]
    split = newest_split(world.open().db)
    assert split is not None
    undrawn = sorted(split.tasks & {world.tasks[number] for number in TAGGED})
    assert undrawn, "the split must hold a picture with tags alone"
    assert project["undrawn_test"] == undrawn
    (line,) = (line for line in status_lines(found) if "to measure masks" in line)
    assert f"{len(undrawn)} of {len(split.tasks)} " in line
    assert line.endswith(", ".join(map(str, undrawn)))
