"""Draws by chance, read off the orders of tasks that were served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clustering.remaining import remaining_log_wealth, remaining_positives
from clustering.task_order import OrderRule, rank_tasks
from ml_backend.artifacts.task_orders import TaskOrder
from sync.rounds.positives_left import picks_of_orders


def served(tasks: np.ndarray, doubt: np.ndarray, share: float, seed: int) -> TaskOrder:
    """An order of these tasks as the worker makes it."""
    n = len(tasks)
    rule = OrderRule(diversity=0, balance=0, explore=share)
    ranking = rank_tasks(doubt, np.zeros((n, 0), np.float32), rule=rule, seed=seed)
    score = np.empty(n)
    score[ranking.order] = (np.arange(n) + 0.5) / n
    zero, text = np.zeros(n), np.array([""] * n, object)
    return TaskOrder(
        "key", {"explore": share}, tasks, score, zero, zero, zero, zero, np.full(n, -1), ranking.explored,
        ranking.inclusion, text, text,
    )  # fmt: skip


def label_first(order: TaskOrder, count: int, positive: np.ndarray, truth: dict[int, bool]) -> None:
    for task in order.task_id[np.argsort(order.score)][:count].tolist():
        truth[task] = bool(positive[task])


def test_orders_one_after_the_other_keep_the_bound() -> None:
    failed, uppers = 0, []
    pool = np.arange(300)
    for play in range(100):
        rng = np.random.default_rng(play)
        positive = rng.random(300) < 0.1
        truth: dict[int, bool] = {}
        orders = []
        for number in range(3):
            rest = np.array([task for task in pool.tolist() if task not in truth])
            believed = positive[rest] * 0.8 * (rng.random(len(rest)) < 0.6) + rng.random(len(rest)) * 0.2
            orders.append(served(rest, believed, 0.5, seed=1000 * play + number))
            label_first(orders[-1], 60, positive, truth)
        picks = picks_of_orders(orders, truth, pool)
        assert len(picks) == 180
        failed += bool(remaining_log_wealth(picks, int(positive.sum())).max() >= -np.log(0.05))
        found = remaining_positives(picks, found=sum(truth.values()), left=120)
        uppers.append(found.upper - (positive.sum() - found.found))
    assert failed <= 0.05 * 100 + 2 * np.sqrt(100 * 0.05 * 0.95)
    assert np.mean(uppers) < 60


def test_only_what_was_served_in_turn_counts() -> None:
    pool = np.arange(100)
    order = served(pool, np.linspace(1, 0.1, 100), 0.5, seed=0)
    truth: dict[int, bool] = {}
    label_first(order, 10, np.zeros(100, bool), truth)
    last = int(order.task_id[np.argmax(order.score)])
    truth[last] = True  # somebody opened this one by hand
    picks = picks_of_orders([order], truth, pool)
    assert len(picks) == 10
    assert picks.answered.all()
    assert picks_of_orders([order], {last: True}, pool).positive.size == 0


def test_tasks_that_came_later_are_no_draws_and_may_be_positive() -> None:
    order = served(np.arange(50), np.linspace(1, 0.1, 50), 0.5, seed=0)
    truth: dict[int, bool] = {}
    label_first(order, 20, np.zeros(50, bool), truth)
    before = picks_of_orders([order], truth, np.arange(50))
    later = picks_of_orders([order], truth, np.arange(60))
    assert (later.gone - before.gone).tolist() == [10] * len(before)


def test_tasks_that_joined_the_order_may_be_positive_too() -> None:
    order = served(np.arange(50), np.linspace(1, 0.1, 50), 0.5, seed=0)
    truth: dict[int, bool] = {}
    label_first(order, 20, np.zeros(50, bool), truth)
    before = picks_of_orders([order], truth, np.arange(50))
    joined = replace(
        served(np.arange(50, 60), np.ones(10), 0.0, seed=0),
        score=np.linspace(0.5, 0.9, 10) + 1e-4,
        inclusion=np.ones(10),
    )
    later = picks_of_orders([order.joined(joined)], truth, np.arange(60))
    assert len(later) == len(before)
    assert (later.gone - before.gone).tolist() == [10] * len(before)


def test_orders_without_uniform_places_say_nothing() -> None:
    order = served(np.arange(50), np.linspace(1, 0.1, 50), 0.0, seed=0)
    truth: dict[int, bool] = {}
    label_first(order, 20, np.zeros(50, bool), truth)
    assert len(picks_of_orders([order], truth, np.arange(50))) == 0
