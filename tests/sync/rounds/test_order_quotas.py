"""Quotas in the order that Label Studio serves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ml_backend.errors import BadInput
from ml_backend.label_studio.config_builder import build_label_config
from sync.rounds.order_quotas import with_quotas
from sync.rounds.registration import register_project
from sync.settings import Settings
from tests.sync.conftest import World
from tests.sync.rounds.test_order import look, order_of, served

MakeWorld = Callable[..., World]
LABELS = ("a", "b")
SHOWN = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0], [0.5, 0]])
DOUBT = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.0, 0.1, 0.4])


def _order(order: list[int], **options: Any) -> list[int]:
    return with_quotas(np.array(order), SHOWN, DOUBT, Settings(**options), LABELS).tolist()


def test_without_quotas_the_order_stays() -> None:
    assert _order([3, 1, 0, 2, 4, 7, 6, 5]) == [3, 1, 0, 2, 4, 7, 6, 5]


def test_shares_hold_from_the_first_task_on() -> None:
    balance = {"a": 0.5, "b": 0.25, "NULL": 0.25}
    found = _order(list(range(8)), ideal_class_balance=balance)
    assert sorted(found[:4]) == [0, 1, 3, 5]
    assert sorted(found) == list(range(8))


def test_the_most_confident_come_first_and_empty_pictures_last() -> None:
    assert _order(list(range(8)), pick="most") == [7, 4, 3, 2, 1, 0, 5, 6]
    found = _order(list(range(8)), pick="most", ideal_class_balance={"a": 0.5, "b": 0.25, "NULL": 0.25})
    assert sorted(found[:4]) == [2, 4, 5, 7]


def test_a_balance_of_other_labels_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert _order(list(range(8)), ideal_class_balance={"cat": 0.5, "NULL": 0.5}) == list(range(8))
    assert "no share of 'a'" in caplog.text


@pytest.mark.parametrize(
    ("balance", "said"),
    [({"disc": 1.0}, "no share of 'bar'"), ({"disc": 0.5, "bar": 0.2, "NULL": 0.2}, "sum to 0.9")],
)
def test_a_wrong_balance_is_refused_at_once(
    make_world: MakeWorld, balance: dict[str, float], said: str
) -> None:
    world = make_world(2)
    options = {"ideal_class_balance": balance}
    with pytest.raises(BadInput, match=said):
        register_project(world.settings, world.store, world.studio, world.project_id, options=options)


def test_people_are_served_the_shares(make_world: MakeWorld) -> None:
    """Pictures of bars only are rare: half of what is served first shows them, as far as there are any."""
    balance = {"disc": 0.0, "bar": 1.0, "NULL": 0.0}
    world = make_world(24, question_budget=0, order_explore=0.0, ideal_class_balance=balance)
    world.label(*range(6))
    report = world.worker().look(world.project_id)
    assert report is not None
    assert report.error == ""
    has_bar = {
        world.tasks[i]: any(label == "bar" for label, _ in scene.masks)
        for i, scene in enumerate(world.scenes)
    }
    order = [has_bar[task] for task in served(world)]
    assert 0 < sum(order) < len(order)
    assert order == sorted(order, reverse=True)
    # a label that was renamed: the balance is left out, and the loop goes on
    world.studio._db["projects"][str(world.project_id)]["label_config"] = build_label_config(("disc", "rod"))
    report = world.worker().look(world.project_id)
    assert report is not None


def test_chances_are_those_of_the_places_that_people_are_served(make_world: MakeWorld) -> None:
    share = 0.5
    world = make_world(24, question_budget=0, order_explore=share, pick="most")
    world.label(*range(6))
    look(world)
    order = order_of(world)
    rows = np.argsort(order.score)
    drawn = share / np.arange(len(rows), 0, -1)
    assert 0 < order.explored.sum() < len(rows)
    for row, chance in zip(rows, drawn, strict=True):
        greedy = chance + 1 - share
        possible = (chance, greedy) if order.explored[row] else (greedy,)
        assert np.isclose(order.inclusion[row], possible).any()
