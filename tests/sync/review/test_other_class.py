"""Two classes that exclude each other: a no to one is a yes to the other, as soon as it is settled."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.instances import Instances
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.shapes import whole_rle
from sync.exchange.collect import collect
from sync.exchange.csv_export import write_csv
from sync.review.review_tasks import read_questions
from sync.rounds.round_records import trained_round
from sync.store.tables import QuestionRecord, RoundRecord
from tests.sync import tiny_learner
from tests.sync.conftest import HW, World, answer_result

MakeWorld = Callable[..., World]
LABELED, OPEN = range(6), range(6, 14)


@pytest.fixture(autouse=True)
def _always_disc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model calls every picture a disc, with a probability of its own."""

    def predict(self: Any, images: Sequence[Any]) -> Iterator[Instances]:
        for image in images:
            score = np.array([0.6 + 0.3 * float(image.mean()) / 255], np.float32)
            box = np.array([[0, 0, HW[1], HW[0]]], np.float32)
            yield Instances(
                np.zeros(1, np.int64), box, [whole_rle(HW)], score, np.ones(1, np.float32),
                image.mean(axis=(0, 1))[None].astype(np.float32),
            )  # fmt: skip

    monkeypatch.setattr(tiny_learner.TinyPredictor, "predict", predict)


def classes_world(make_world: MakeWorld, labels: Sequence[str] = ("disc", "bar"), **options: Any) -> World:
    world = make_world(
        14, config=build_label_config(labels, kind="classes"), review_form="single",
        **{"policy": "verify-all", "question_batch": 500, **options},
    )  # fmt: skip
    for number in LABELED:
        said = {"type": "choices", "from_name": "class", "to_name": "image"}
        result = {**said, "value": {"choices": [labels[number % 2]]}}
        world.studio.create_annotation(world.tasks[number], [result], lead_time_s=2.0)
    return world


def look(world: World) -> RoundRecord:
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    record = trained_round(world.open().db)
    assert record is not None
    return record


def answer(world: World, client: Any, discs: Sequence[int]) -> None:
    """Somebody answers what is open: these pictures show discs, the others do not."""
    review = world.review_projects()["single"]
    while (task := client.next_task(review)) is not None:
        _, (question,) = read_questions(task.data)
        good = world.tasks.index(question.task_id) in discs
        client.create_annotation(task.id, answer_result("single", [good]), lead_time_s=2.0)


def shown(world: World, number: int) -> list[tuple[str, bool]]:
    """Classes that people see on a picture, and whether they are said to be verified."""
    (prediction,) = world.studio.predictions(world.tasks[number])
    return [
        (item["value"]["choices"][0], "verified" in str(item.get("meta", "")))
        for item in prediction.result
        if item["type"] == "choices"
    ]


def exported(world: World) -> dict[int, tuple[str, str, float]]:
    """Class, source and probability of the pictures that nobody finished."""
    project = world.open()
    out = project.paths.root / "classes.csv"
    write_csv(collect(project.db, project.config.wanted, project.paths, project.images), out)
    with out.open(newline="") as file:
        return {
            world.tasks.index(int(row["task"])): (row["label"], row["source"], float(row["probability"]))
            for row in csv.DictReader(file)
            if row["source"] != "human"
        }


def names_of_rejections(world: World, record: RoundRecord) -> set[str]:
    rows = read_verdicts(world.open().paths.round(record.number)).values()
    return {row.test for row in rows if row.verdict < 0}


def test_a_no_to_one_of_two_classes_is_shown_and_exported_as_the_other(make_world: MakeWorld) -> None:
    world = classes_world(make_world)
    look(world)
    discs = [6, 7, 8]
    answer(world, world.studio, discs)
    record = look(world)
    assert record.review_done
    with world.store.read() as session:
        asked = [row.task_id for row in session.scalars(select(QuestionRecord))]
    assert len(asked) == len(set(asked))  # one question a picture
    found = exported(world)
    assert found.keys() == set(OPEN)
    for number in OPEN:
        label = "disc" if number in discs else "bar"
        assert shown(world, number) == [(label, True)]
        assert found[number][:2] == (label, "verified")
        assert (found[number][2] > 0.5) == (label == "disc")
    assert record.figures["review"]["accepted"] == len(discs)  # promises count what was asked about


def test_of_three_classes_a_no_says_nothing_about_the_others(make_world: MakeWorld) -> None:
    world = classes_world(make_world, ("disc", "bar", "ring"))
    look(world)
    answer(world, world.studio, [6])
    record = look(world)
    assert exported(world).keys() == {6}
    assert shown(world, 7) == []
    assert names_of_rejections(world, record) == {"verdict"}


def test_where_people_may_err_one_no_is_not_enough(make_world: MakeWorld) -> None:
    world = classes_world(make_world, review_overlap=4, review_overlap_max=5)
    look(world)
    people = [world.studio.as_user(f"{name}@example.com", "a long password") for name in "abcd"]
    discs = [6, 7, 8, 9]
    answer(world, people[0], discs)
    look(world)
    bars = [number for number in OPEN if number not in discs]
    assert [shown(world, number) for number in bars] == [[]] * len(bars)
    for person in people[1:]:
        answer(world, person, discs)
    look(world)
    assert [shown(world, number) for number in bars] == [[("bar", True)]] * len(bars)
    assert [shown(world, number) for number in discs] == [[("disc", True)]] * len(discs)


def test_a_policy_that_allows_for_errors_leaves_the_other_class_to_experts(make_world: MakeWorld) -> None:
    world = classes_world(
        make_world, policy="certified", policy_options={"sensitivity": 0.95, "specificity": 0.95}
    )
    look(world)
    answer(world, world.studio, [])
    record = look(world)
    assert record.figures["review"]["answered"]
    assert not any(verified for number in OPEN for _, verified in shown(world, number))


def test_a_no_from_a_time_with_three_classes_is_no_yes(make_world: MakeWorld) -> None:
    world = classes_world(make_world, ("disc", "bar", "ring"), question_batch=500)
    look(world)
    answer(world, world.studio, [6])
    look(world)
    world.studio._db["projects"][str(world.project_id)]["label_config"] = build_label_config(
        ("disc", "bar"), kind="classes"
    )
    look(world)
    assert look(world).number == 2
    assert ("bar", True) not in shown(world, 7)
    assert exported(world).keys() == {6}
