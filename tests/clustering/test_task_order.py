"""Orders of tasks: doubtful first, spread over what there is, classes in need first; new ones in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clustering.task_order import OrderRule, class_need, rank_tasks
from clustering.typical import typical_order, typicality

PLAIN = OrderRule(diversity=0.0, balance=0.0, explore=0.0)
NONE = np.zeros((0, 0), np.float32)


def blobs(sizes: list[int], seed: int = 0) -> Any:
    """Points around far centres, and the number of the centre of each."""
    rng = np.random.default_rng(seed)
    centres = 20.0 * rng.normal(size=(len(sizes), 6))
    group = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[group] + rng.normal(size=(len(group), 6))).astype(np.float32), group


def test_doubt_alone_sorts_by_doubt_and_equal_ones_stay_in_order() -> None:
    doubt = np.array([0.2, 0.9, 0.2, 0.5])
    found = rank_tasks(doubt, np.zeros((4, 0), np.float32), rule=PLAIN)
    assert found.order.tolist() == [1, 3, 0, 2]
    assert not found.explored.any()
    assert np.isnan(found.gain).all()
    assert found.inclusion.tolist() == [1.0] * 4


@pytest.mark.parametrize("rule", [PLAIN, OrderRule(), OrderRule(diversity=2.0, explore=0.5, ahead=3)])
@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_every_order_is_a_permutation_and_the_same_for_the_same_seed(rule: OrderRule, n: int) -> None:
    rng = np.random.default_rng(3)
    doubt, feature = rng.random(n), rng.normal(size=(n, 4)).astype(np.float32)
    one, two = (rank_tasks(doubt, feature, rule=rule, seed=5) for _ in range(2))
    assert sorted(one.order.tolist()) == list(range(n))
    assert one.order.tolist() == two.order.tolist()


def test_diversity_visits_every_group_before_it_comes_back() -> None:
    feature, group = blobs([30, 30, 30, 30])
    doubt = np.where(group == 0, 0.9, 0.8)  # by doubt alone, thirty of one group come first
    plain = rank_tasks(doubt, feature, rule=PLAIN)
    assert set(group[plain.order[:30]]) == {0}
    spread = rank_tasks(doubt, feature, rule=OrderRule(diversity=1.0, explore=0.0))
    assert set(group[spread.order[:4]]) == {0, 1, 2, 3}
    second = spread.order[4]
    assert group[spread.similar[second]] == group[second], "it says what it is similar to"
    assert spread.similar[spread.order[0]] == -1


def test_what_is_labelled_counts_as_chosen() -> None:
    feature, group = blobs([20, 20, 20])
    labelled = feature[group == 1][:5]
    rule = OrderRule(diversity=1.0, explore=0.0)
    found = rank_tasks(np.full(60, 0.5), feature, labelled=labelled, rule=rule)
    assert set(group[found.order[:2]]) == {0, 2}


def test_an_odd_picture_is_not_chosen_for_being_odd() -> None:
    feature, group = blobs([50, 50, 1])
    found = rank_tasks(np.full(101, 0.5), feature, rule=OrderRule(diversity=1.0, explore=0.0))
    assert 100 not in found.order[:10]
    assert set(group[found.order[:2]]) == {0, 1}


def test_needed_classes_go_first_and_crowds_have_no_advantage() -> None:
    shown = np.array([[4.0, 0.0], [0.0, 0.3], [2.0, 2.0], [0.0, 30.0], [0.0, 0.0]])
    need = class_need(shown, [99, 0])
    assert need[1] == need[3] == 1.0
    assert need[0] == pytest.approx(0.1)
    assert need[2] == pytest.approx(0.55)
    assert need[4] == pytest.approx(need[:4].mean())
    order = rank_tasks(
        np.full(5, 0.5), np.zeros((5, 0), np.float32), need=need, rule=OrderRule(balance=1.0, explore=0.0)
    ).order
    assert order[:2].tolist() == [1, 3]
    assert order[-1] == 0
    assert class_need(np.zeros((3, 0)), []).tolist() == [1.0] * 3


def test_uniform_picks_are_uniform_and_their_probabilities_true() -> None:
    n, share, runs = 8, 0.4, 4000
    doubt = np.linspace(0.9, 0.1, n)
    first = np.zeros(n)
    for seed in range(runs):
        found = rank_tasks(doubt, np.zeros((n, 0), np.float32), rule=OrderRule(explore=share), seed=seed)
        row = found.order[0]
        first[row] += 1
        expected = share / n + (1 - share if row == 0 else 0)
        assert found.inclusion[row] == pytest.approx(expected)
        if row != 0:
            assert found.explored[row]
    assert first[1:] / runs == pytest.approx(np.full(n - 1, share / n), abs=0.02)
    assert first[0] / runs == pytest.approx(1 - share + share / n, abs=0.03)


@pytest.mark.parametrize(
    "wrong", [{"diversity": -1.0}, {"explore": 1.0}, {"balance": float("nan")}, {"ahead": -1}]
)
def test_wrong_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OrderRule(**wrong)


def test_typical_pictures_of_the_largest_groups_come_first() -> None:
    feature, group = blobs([40, 25, 12, 3])
    order = typical_order(feature, 4)
    assert sorted(order.tolist()) == list(range(80))
    assert group[order[0]] == 0
    assert set(group[order[:3]]) >= {0, 1}
    dense = typicality(feature[group == 0])
    place = np.flatnonzero(group == 0).tolist().index(order[0])
    assert dense[place] >= np.quantile(dense, 0.5)


def test_groups_with_labels_come_last() -> None:
    feature, group = blobs([40, 40])
    order = typical_order(feature, 1, labelled=feature[group == 0][:3])
    assert group[order[0]] == 1


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_or_equal_pictures_are_ordered_too(n: int) -> None:
    assert sorted(typical_order(np.ones((n, 4), np.float32), 2).tolist()) == list(range(n))
