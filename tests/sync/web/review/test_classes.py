"""Naming classes of pictures on the page: order, suggestions, answers in the label project, figures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.artifacts.task_orders import TaskOrder, read_order, write_order
from ml_backend.instances import Instances
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.masks.rle import encode_mask
from sync.review.outbox import CLASSES, QUESTIONS
from sync.rounds.pull import pull
from sync.store.database import utc_now
from sync.store.review_tables import CardRecord
from sync.store.tables import ProjectRecord, RoundRecord
from tests.sync.conftest import HW, LABELS, World
from tests.sync.steps import step
from tests.sync.web.review.place import Place, task_of

N = 16
LABELLED = 8
VERSION = "gs1-r1-aa"
NOTHING = np.zeros((2, 0), np.float32)


def label_of(world: World, number: int) -> str:
    """The class of a picture: what most of its shapes are."""
    names = [label for label, _ in world.scenes[number].masks]
    return max(LABELS, key=names.count)


def chosen(*labels: str) -> list[dict[str, Any]]:
    return [{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}]


def model_looks(world: World) -> None:
    """What a round leaves of the unfinished pictures: a pool with classes, and an order with doubts."""
    paths = ProjectPaths(world.settings.data_dir, world.project_id)
    tasks = np.array(world.tasks[LABELLED:], np.int64)
    n = len(tasks)
    disc = np.linspace(0.35, 0.95, n)
    whole = encode_mask(np.ones(HW, bool))
    box = np.array([[0, 0, HW[1], HW[0]]] * 2, np.float32)
    with PoolWriter(paths.pool(VERSION), LABELS, embedding_dim=0) as writer:
        for task, p in zip(tasks.tolist(), disc.tolist(), strict=True):
            score = np.array([p, 1 - p], np.float32)
            found = Instances(np.array([0, 1]), box, [whole, whole], score, np.ones(2, np.float32), NOTHING)
            writer.add(task, found, hw=HW, score=p, image_sha="x")
    place = np.random.default_rng(3).permutation(n) / n
    doubts = np.array([json.dumps({"entropy": round(1 - abs(2 * p - 1), 4)}) for p in disc], object)
    nan, ones = np.full(n, np.nan), np.ones(n)
    write_order(
        paths.order(VERSION),
        TaskOrder(
            "k", {"method": "ours"}, tasks, place, -place, ones, ones, nan, np.full(n, -1),
            np.zeros(n, bool), ones, np.array(["p"] * n, object), doubts,
        ),
    )  # fmt: skip


@pytest.fixture
def classes(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """``classes(multiple=False)``: a project of kind ``classes`` with eight finished tasks of sixteen."""
    made: list[World] = []

    def make(multiple: bool = False, *, has_model: bool = True, **options: Any) -> Place:
        config = build_label_config(LABELS, kind="classes", multiple=multiple)
        world = World(tmp_path / "world", N, config=config, signing_key="0123456789abcdefghij" * 2, **options)
        made.append(world)
        for number in range(LABELLED):
            world.studio.create_annotation(world.tasks[number], chosen(label_of(world, number)))
        step(pull, world.open())
        if has_model:
            model_looks(world)
        return Place(world)

    yield make
    for world in made:
        world.store.close()


def test_one_picture_a_card_in_the_order_of_the_project(classes: Callable[..., Place]) -> None:
    place = classes()
    ana = place.person(scopes=[CLASSES])
    (stream,) = ana.get("me").json["streams"]
    assert (stream["mode"], stream["labels"]) == ("classes", list(LABELS))
    assert (stream["left"], stream["answered"]) == (N - LABELLED, 0)
    cards = ana.cards()
    order = read_order(place.world.open().paths.order(VERSION))
    assert order is not None
    wanted = [task for _, task in sorted(zip(order.score.tolist(), order.task_id.tolist(), strict=True))]
    assert [task_of(card) for card in cards] == [t for t in wanted if t in place.world.tasks[LABELLED:]]
    card = cards[0]
    assert (card["form"], card["exclusive"]) == ("class", True)
    assert [one["value"] for one in card["choices"]] == list(LABELS)
    assert [one["key"] for one in card["choices"]] == ["1", "2"]
    shown = {task_of(card): card["suggested"] for card in cards}
    assert [shown[task] for task in place.world.tasks[LABELLED:]] == [["bar"]] * 2 + [["disc"]] * 6
    picture = Image.open(io.BytesIO(place.app.test_client().get(card["image"]).data))
    assert picture.size == (64, 48)


def test_other_orders_serve_the_doubtful_or_the_sure_first(classes: Callable[..., Place]) -> None:
    place = classes()
    ana = place.person(scopes=[CLASSES])
    order = read_order(place.world.open().paths.order(VERSION))
    assert order is not None
    doubt = {
        t: json.loads(text)["entropy"] for t, text in zip(order.task_id.tolist(), order.doubts, strict=True)
    }
    found = [doubt[task_of(card)] for card in ana.cards(order="entropy")]
    assert len(found) == N - LABELLED
    assert found == sorted(found, reverse=True)
    surest = [task_of(card) for card in ana.cards(order="surest")]
    assert surest[:3] == place.world.tasks[: LABELLED - 1 : -1][:3]
    assert ana.get("cards", stream=ana.stream, order="magic").json["field"] == "order"


def test_a_class_becomes_an_annotation_of_the_label_project(classes: Callable[..., Place]) -> None:
    place = classes()
    ana, ben = place.person("Ana", scopes=[CLASSES]), place.person("Ben", scopes=[CLASSES])
    first, second, third = ana.cards(n=3)
    (other,) = ben.cards(n=1)
    assert other["id"] not in {first["id"], second["id"], third["id"]}  # held for Ana
    assert ana.answer(first["id"], choices=["disc"])["stored"]
    assert ana.answer(second["id"], value="unsure")["stored"]
    for wrong in ([], ["disc", "bar"], ["cat"], "disc", [1], None):
        assert ana.answer(third["id"], choices=wrong)["refused"]
    assert ana.answer(third["id"], value="yes")["refused"]
    assert place.flush().written == 2
    (row,) = place.studio.task(task_of(first)).annotations
    assert place.studio.user_names()[row.completed_by or 0] == "Ana"
    (item,) = row.result
    assert (item["from_name"], item["to_name"], item["type"]) == ("class", "image", "choices")
    assert item["value"] == {"choices": ["disc"]}
    assert [a.was_cancelled for a in place.studio.task(task_of(second)).annotations] == [True]
    step(pull, place.world.open())  # the worker reads it as finished work
    assert ana.get("me").json["streams"][0]["left"] == N - LABELLED - 2 - 1
    assert first["id"] not in {card["id"] for card in ben.cards()}
    # undone after it was written
    assert ana.post("undo", {"card": first["id"]}).json["before"] == {"choices": ["disc"]}
    place.flush()
    assert place.studio.task(task_of(first)).annotations == ()


def test_figures_say_how_many_of_each_class_and_how_often_the_model_agreed(
    classes: Callable[..., Place],
) -> None:
    place = classes()
    ana = place.person(scopes=[CLASSES])
    cards = [card for card in ana.cards() if card["suggested"]][:3]
    assert len(cards) == 3
    said = []
    for number, card in enumerate(cards):
        (suggested,) = card["suggested"]
        other = next(label for label in LABELS if label != suggested)
        said.append(suggested if number else other)
        ana.answer(card["id"], choices=[said[-1]])
    figures = ana.get("stats", stream=ana.stream).json
    assert figures["agreement"] == {"same": 2, "of": 3}
    assert {row["value"]: row["count"] for row in figures["classes"]} == {x: said.count(x) for x in set(said)}


def test_figures_say_how_often_the_model_and_the_person_are_right_where_that_is_known(
    classes: Callable[..., Place],
) -> None:
    place = classes(review_show_gold=True)
    ana, ben = place.person("Ana", scopes=[CLASSES]), place.person("Ben", scopes=[CLASSES])
    world = place.world

    def told() -> dict[str, Any]:
        return dict(ana.get("stats", stream=ana.stream).json["accuracy"])

    assert told() == {"model": None, "own": None}, "nothing was measured"
    cards = ana.cards(n=5)
    said = {task_of(card): LABELS[i % 2] for i, card in enumerate(cards)}
    for card in cards:
        ana.answer(card["id"], choices=[said[task_of(card)]])
    other = ben.cards(n=1)[0]
    ben.answer(other["id"], choices=["disc"])
    place.flush()
    step(pull, world.open())
    assert told()["own"] is None, "nobody but she said anything about these"
    # somebody looks at three of them in Label Studio itself, and marks her own word on a fourth
    first, second, third, fourth, _ = said
    for task, label in ((first, said[first]), (second, said[second]), (third, "bar")):
        world.studio.create_annotation(task, chosen(label))
    assert said[third] == "disc"
    (hers,) = world.studio.task(fourth).annotations
    world.studio._db["annotations"][str(hers.id)]["ground_truth"] = True
    world.studio.update_annotation(hers.id, hers.result)
    step(pull, world.open())
    own = told()["own"]
    assert (own["right"], own["of"]) == (3, 4)
    assert 0.15 < own["low"] < 0.25, "Clopper and Pearson, 95 %: 0.194 to 0.994"
    assert 0.99 < own["high"] < 1.0
    for pictures, metrics in ((4, [0.75, 0.3, 0.95]), (40, [0.9, 0.78, 0.97])):
        with world.store.write() as session:
            session.merge(
                RoundRecord(
                    project_id=world.project_id, number=1, model_version=VERSION, digest="d", step="push",
                    finished_tasks=8, started_at=utc_now(), updated_at=utc_now(),
                    figures={"train": {"metrics": {"accuracy": metrics}, "n_test": pictures}},
                )
            )  # fmt: skip
        found = told()["model"]
        assert found["pictures"] == pictures
        assert ("share" in found) == (pictures == 40), "four pictures say nothing"
    assert (found["share"], found["low"], found["high"]) == (0.9, 0.78, 0.97)
    assert ana.get("stats", stream=ana.stream).json["agreement"]["of"] == 5


def test_people_are_told_how_often_they_are_right_only_where_the_admin_wants_it(
    classes: Callable[..., Place],
) -> None:
    place = classes()
    ana = place.person("Ana", scopes=[CLASSES])
    card = ana.cards(n=1)[0]
    ana.answer(card["id"], choices=["disc"])
    place.flush()
    place.world.studio.create_annotation(task_of(card), chosen("bar"))
    step(pull, place.world.open())
    assert ana.get("stats", stream=ana.stream).json["accuracy"]["own"] is None


def test_several_classes_a_picture(classes: Callable[..., Place]) -> None:
    place = classes(multiple=True, has_model=False)
    ana = place.person(scopes=[QUESTIONS, CLASSES])
    streams = {row["mode"]: row for row in ana.get("me").json["streams"]}
    assert set(streams) == {"questions", "classes"}
    reply = ana.get("cards", stream=streams["classes"]["id"], n=2).json
    first, second = reply["cards"]
    assert first["suggested"] == []  # no model has looked yet
    assert first["exclusive"] is False
    assert ana.answer(first["id"], choices=["bar", "disc", "bar"])["stored"]
    assert ana.answer(second["id"], choices=[])["stored"]  # none of them
    place.flush()
    (both,) = place.studio.task(task_of(first)).annotations
    assert both.result[0]["value"] == {"choices": ["disc", "bar"]}
    (none,) = place.studio.task(task_of(second)).annotations
    assert (none.result, none.was_cancelled) == ((), False)


def test_a_link_for_questions_opens_no_classes(classes: Callable[..., Place]) -> None:
    place = classes()
    ana = place.person(scopes=[QUESTIONS])
    assert [row["mode"] for row in ana.get("me").json["streams"]] == ["questions"]
    project = place.world.project_id
    assert ana.get("cards", stream=f"{project}:classes").status_code == 400
    assert ana.answer(f"{project}:c:{place.world.tasks[10]}", choices=["disc"])["refused"]


def test_a_project_that_wants_boxes_by_now_gives_no_cards_of_classes(classes: Callable[..., Place]) -> None:
    place = classes()
    ana = place.person(scopes=[CLASSES, QUESTIONS])
    stream = next(s["id"] for s in ana.get("me").json["streams"] if s["mode"] == "classes")
    card = ana.get("cards", stream=stream).json["cards"][0]
    with place.world.store.write() as session:
        record = session.get_one(ProjectRecord, place.world.project_id)
        record.label_config = build_label_config(LABELS, kind="boxes")
    assert [s["mode"] for s in ana.get("me").json["streams"]] == ["questions"]
    assert ana.get("cards", stream=stream).status_code == 400
    reply = ana.answer(card["id"], choices=card["suggested"])
    assert "no classes" in reply["refused"][0]["error"]
    assert place.flush().written == 0


def test_a_picture_whose_answer_was_deleted_in_label_studio_is_given_again(
    classes: Callable[..., Place],
) -> None:
    place = classes()
    ana, ben = place.person("Ana", scopes=[CLASSES]), place.person("Ben", scopes=[CLASSES])
    card = ana.cards(n=1)[0]
    ana.answer(card["id"], choices=[LABELS[0]])
    place.flush()
    step(pull, place.world.open())
    assert card["id"] not in {c["id"] for c in ana.cards()}
    (row,) = place.studio.task(task_of(card)).annotations
    place.studio.delete_annotation(row.id)
    step(pull, place.world.open())
    with place.world.store.write() as session:
        session.execute(update(CardRecord).values(until=utc_now()))
    assert card["id"] in {c["id"] for c in ben.cards()}
