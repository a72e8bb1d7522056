"""Scores of likely label mistakes, on arrays small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.duplicates import FARTHEST, alike_groups
from clustering.mistakes import (
    FINE,
    NOTHING,
    PLACED,
    SWAPPED,
    class_mistakes,
    difference_scores,
    geometric_mean,
    object_differences,
    rows_by,
    soft_minimum,
    tag_mistakes,
)

NONE = np.zeros((0, 0))
ONE = np.zeros(1, np.int64)


def test_an_object_that_nobody_drew_is_overlooked_once() -> None:
    iou = np.array([[0.9], [0.0], [0.0]])
    among = np.array([[1, 0, 0], [0, 1, 0.8], [0, 0.8, 1.0]])
    found = object_differences(iou, iou, among, np.zeros(3, np.int64), np.array([0.9, 0.7, 0.95]), ONE)
    assert found.overlooked == pytest.approx([0.0, 0.0, 0.95])
    assert found.drawn.tolist() == [FINE]
    assert found.agrees.tolist() == [True, False, False]


def test_a_moved_object_is_badly_placed_and_not_overlooked_too() -> None:
    found = object_differences(np.array([[0.2]]), np.array([[0.35]]), np.eye(1), ONE, np.array([0.8]), ONE)
    assert (found.drawn.tolist(), found.by.tolist()) == ([PLACED], [0])
    assert found.strength == pytest.approx([0.8])
    assert found.overlooked == pytest.approx([0.0])


def test_a_find_that_lies_in_two_drawn_ones_is_not_overlooked() -> None:
    found = object_differences(
        np.array([[0.03, 0.03]]), np.array([[0.3, 0.3]]), np.eye(1), ONE, np.array([1.0]), np.zeros(2, int)
    )
    assert found.overlooked == pytest.approx([0.0])
    assert found.drawn.tolist() == [NOTHING, NOTHING]


def test_a_label_is_swapped_as_far_as_the_model_prefers_the_other() -> None:
    iou, labels = np.array([[0.9], [0.9]]), np.array([1, 0])
    both = object_differences(iou, iou, np.ones((2, 2)), labels, np.array([0.9, 0.3]), ONE)
    assert (both.drawn.tolist(), both.by.tolist()) == ([SWAPPED], [0])
    assert both.strength == pytest.approx([0.6])
    assert both.overlooked.max() == 0
    agreed = object_differences(iou, iou, np.ones((2, 2)), labels, np.array([0.3, 0.9]), ONE)
    assert agreed.drawn.tolist() == [FINE]


def test_an_object_that_is_not_found_and_a_picture_without_any() -> None:
    nothing = np.zeros((0, 1))
    found = object_differences(nothing, nothing, NONE, ONE[:0], np.zeros(0), ONE)
    assert (found.drawn.tolist(), found.strength.tolist()) == ([NOTHING], [1.0])
    empty = object_differences(NONE, NONE, NONE, ONE[:0], np.zeros(0), ONE[:0])
    assert len(empty.drawn) == len(empty.overlooked) == 0


def test_a_difference_says_much_where_the_model_seldom_differs() -> None:
    strength, label = np.array([0.9, 0.9, 0.5]), np.array([0, 1, 1])
    chances = np.repeat(np.array([[1000.0], [10.0]]), 3, axis=1)
    score = difference_scores(strength, label, chances, share=0.02)
    assert score[0] > score[1] > score[2]
    everywhere = (1 + 20 * 0.05) / (1010 + 20)
    # no other one of label 0, but 20 borrowed ones, differ as strongly
    assert score[0] == pytest.approx(0.02 / (0.02 + 20 * everywhere / 1020))
    pooled = difference_scores(strength, label, chances, share=0.02, pooled=True)
    assert pooled[0] == pooled[1] == pytest.approx(0.02 / (0.02 + everywhere))


def test_a_difference_says_less_on_a_picture_of_which_the_model_knows_little() -> None:
    strength, label = np.array([0.8, 0.9, 0.7, 0.8]), np.zeros(4, np.int64)
    chances = np.full((1, 4), 100.0)
    plain = difference_scores(strength, label, chances, share=0.05)
    picture, nearby = np.array([7, 3, 3, 7]), np.array([10.0, 1.0, 2.0, 40.0])
    score = difference_scores(strength, label, chances, share=0.05, picture=picture, nearby=nearby)
    rate = 0.05 / plain - 0.05
    # others on their picture that are as strong
    own = (np.array([1, 0, 1, 1]) + 20 * rate) / (nearby + 20)
    assert score == pytest.approx(0.05 / (0.05 + own))
    assert score[0] < score[3] < score[1]


def test_rows_are_put_together_by_their_number() -> None:
    assert rows_by(np.zeros(0, np.int64)) == []
    found = rows_by(np.array([5, 2, 5, 9, 2, 5]))
    assert [rows.tolist() for rows in found] == [[1, 4], [0, 2, 5], [3]]


def test_the_soft_minimum_lies_between_minimum_and_mean() -> None:
    quality = np.array([0.1, 0.9, 1.0])
    assert 0.1 < soft_minimum(quality) < 0.12
    assert soft_minimum(quality, temperature=100.0) == pytest.approx(quality.mean(), abs=0.01)
    assert soft_minimum(np.zeros(0)) == 1.0
    assert geometric_mean([1.0, 1.0, 0.125]) == pytest.approx(0.5)


def test_confident_learning_knows_a_rare_class_by_its_own_threshold() -> None:
    # the model is never sure of class 1: .45 on average where people said so
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.5, 0.5], [0.6, 0.4], [0.45, 0.55]])
    given = np.array([0, 0, 1, 1, 1, 0])
    score, likely = class_mistakes(p, given)
    assert likely.tolist() == [0, 0, 1, 1, 1, 1]
    assert score[:5] == pytest.approx([0, 0, 0, 0, 0])
    assert score[5] == pytest.approx(0.5 + 0.1 / 2)


def test_a_class_nobody_uses_is_never_proposed() -> None:
    score, likely = class_mistakes(np.array([[0.1, 0.0, 0.9], [0.2, 0.1, 0.7]]), np.array([0, 0]))
    assert likely.tolist() == [0, 0]
    assert score.tolist() == [0, 0]


def test_tags_are_a_choice_of_two_each() -> None:
    p = np.array([[0.95, 0.1], [0.9, 0.9], [0.05, 0.9], [0.1, 0.1]])
    given = np.array([[True, False], [True, True], [True, True], [False, False]])
    score = tag_mistakes(p, given)
    assert score[2, 0] > 0.9
    assert np.count_nonzero(score) == 1


def bits(rows: list[list[int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """Hashes of random bits; each row is the picture it starts from and how many bits differ."""
    rng = np.random.default_rng(3)
    base = rng.integers(0, 1 << 16, (max(row[0] for row in rows) + 1, 16)).astype(np.uint16)
    out = []
    for number, flips in rows:
        words = base[number].copy()
        for bit in rng.choice(256, flips, replace=False).tolist():
            words[bit // 16] ^= np.uint16(1 << (bit % 16))
        out.append(words)
    return np.stack(out)


def test_hashes_in_reach_are_found_whatever_bits_differ() -> None:
    hashes = bits([[0, 0], [1, 0], *[[0, FARTHEST // 2]] * 20, [2, 0], [2, 0]])
    group, other = alike_groups(hashes, FARTHEST)
    assert len(set(group[[0, *range(2, 22)]].tolist())) == 1
    assert group[1] not in group[[0, 2, 22]]
    assert other[1] == -1
    assert sorted(other[[22, 23]].tolist()) == [22, 23]
    assert alike_groups(hashes, 0)[1].tolist() == [-1] * 22 + [23, 22]


def test_all_pairs_agree_with_a_plain_comparison() -> None:
    rng = np.random.default_rng(0)
    rows = [[int(n), int(f)] for n, f in zip(rng.integers(0, 40, 300), rng.integers(0, 20, 300), strict=True)]
    hashes = bits(rows)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2).astype(int)
    np.fill_diagonal(apart, 999)
    for most in (8, 15, 24):
        _, other = alike_groups(hashes, most)
        nearest = apart.min(axis=1)
        assert ((other >= 0) == (nearest <= most)).all()
        has = other >= 0
        assert (apart[np.flatnonzero(has), other[has]] == nearest[has]).all()


def test_many_hashes_need_little_memory() -> None:
    import tracemalloc

    hashes = np.random.default_rng(1).integers(0, 1 << 16, (20_000, 16)).astype(np.uint16)
    tracemalloc.start()
    group, _ = alike_groups(hashes, 15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(group)) == 20_000
    assert peak < 100e6  # all pairs would be 200 million


def test_a_distance_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="most"):
        alike_groups(np.zeros((2, 16), np.uint16), FARTHEST + 1)
