"""Naming classes of pictures on the page: order, suggestions, answers in the label project, figures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ml_backend.artifacts.task_orders import read_order
from ml_backend.label_studio.config_builder import build_label_config
from sync.review.outbox import CLASSES, QUESTIONS
from sync.rounds.pull import pull
from sync.rounds.round_records import trained_round
from tests.sync.conftest import LABELS, World
from tests.sync.steps import step
from tests.sync.web.review.conftest import copy_world
from tests.sync.web.review.place import Place, task_of

N = 16
LABELLED = 8


def label_of(world: World, number: int) -> str:
    """The class of a picture: what most of its shapes are."""
    names = [label for label, _ in world.scenes[number].masks]
    return max(LABELS, key=names.count)


def chosen(*labels: str) -> list[dict[str, Any]]:
    return [{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}]


@pytest.fixture(scope="module")
def trained_classes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], World]:
    """Worlds with eight finished tasks: of one class a picture and trained, or of several and not trained."""
    made: dict[bool, World] = {}

    def make(multiple: bool) -> World:
        if multiple not in made:
            config = build_label_config(LABELS, kind="classes", multiple=multiple)
            folder = tmp_path_factory.mktemp("classes") / "world"
            options = {
                "learner": "auto",
                "learner_options": {"method": "linear", "features": "patches", "side": 64},
            }
            world = World(folder, N, in_file=True, config=config, **options)
            for number in range(LABELLED):
                world.studio.create_annotation(world.tasks[number], chosen(label_of(world, number)))
            if multiple:
                step(pull, world.open())
            else:
                report = world.worker().look(world.project_id)
                assert report is not None
                assert report.error == ""
            world.store.close()
            made[multiple] = world
        return made[multiple]

    return make


@pytest.fixture
def classes(tmp_path: Path, trained_classes: Callable[[bool], World]) -> Iterator[Callable[..., Place]]:
    """``classes(multiple=False)``: a project of kind ``classes`` after its first round."""
    made: list[World] = []

    def make(multiple: bool = False) -> Place:
        made.append(copy_world(trained_classes(multiple), tmp_path / f"world{len(made)}", {}))
        return Place(made[-1])

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
    record = step(trained_round, place.world.open())
    assert record is not None
    order = read_order(place.world.open().paths.order(record.model_version))
    assert order is not None
    wanted = [task for _, task in sorted(zip(order.score.tolist(), order.task_id.tolist(), strict=True))]
    assert [task_of(card) for card in cards] == [t for t in wanted if t in place.world.tasks[LABELLED:]]
    card = cards[0]
    assert (card["form"], card["exclusive"]) == ("class", True)
    assert [one["value"] for one in card["choices"]] == list(LABELS)
    assert [one["key"] for one in card["choices"]] == ["1", "2"]
    assert all(set(card["suggested"]) <= set(LABELS) for card in cards)
    assert any(card["suggested"] for card in cards)
    picture = Image.open(io.BytesIO(place.app.test_client().get(card["image"]).data))
    assert picture.size == (64, 48)


def test_other_orders_serve_the_doubtful_or_the_sure_first(classes: Callable[..., Place]) -> None:
    place = classes()
    ana = place.person(scopes=[CLASSES])
    record = step(trained_round, place.world.open())
    assert record is not None
    order = read_order(place.world.open().paths.order(record.model_version))
    assert order is not None
    doubt = {
        t: json.loads(text)["entropy"] for t, text in zip(order.task_id.tolist(), order.doubts, strict=True)
    }
    found = [doubt[task_of(card)] for card in ana.cards(order="entropy")]
    assert len(found) == N - LABELLED
    assert found == sorted(found, reverse=True)
    assert len(ana.cards(order="surest")) == N - LABELLED
    assert ana.get("cards", stream=ana.stream, order="magic").json["field"] == "order"


def test_a_class_becomes_an_annotation_of_the_label_project(classes: Callable[..., Place]) -> None:
    place = classes()
    ana, ben = place.person("Ana", scopes=[CLASSES]), place.person("Ben", scopes=[CLASSES])
    first, second, third, *_ = ana.cards()
    assert not {card["id"] for card in ben.cards()} & {first["id"], second["id"]}  # held for Ana
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
    place.world.worker().look(place.world.project_id)  # the worker pulls it as finished work
    assert ana.get("me").json["streams"][0]["left"] == N - LABELLED - 2
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


def test_several_classes_a_picture(classes: Callable[..., Place]) -> None:
    place = classes(multiple=True)
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
