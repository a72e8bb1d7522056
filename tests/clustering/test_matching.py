"""The same masks in two pools, and answers carried over from one to the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustering.answers import AnswerLog, Stream
from clustering.matching import carry_over, match_pools
from clustering.search import Certified
from tests.clustering.search_pools import answer_all, known_pool


def test_matching_is_one_to_one_and_best_first() -> None:
    old, new = match_pools(
        [0, 0, 1, 1, 2, 3], [5, 6, 5, 6, 7, 8], [0.95, 0.92, 0.97, 0.91, 0.89, 0.99], [1, 1, 1, 1, 1, 0]
    )
    # 1-5 is best, 0 gets 6 instead; 2-7 overlaps too little, 3-8 has another label
    assert old.tolist() == [0, 1]
    assert new.tolist() == [6, 5]
    assert match_pools([], [], [], [])[0].shape == (0,)
    with pytest.raises(ValueError, match="rows"):
        match_pools([0], [0, 1], [1.0], [True])
    with pytest.raises(ValueError, match="IoU"):
        match_pools([0], [0], [1.5], [True])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 8), st.integers(0, 8), st.sampled_from([0.5, 0.9, 0.93, 0.96, 1.0]), st.booleans()
        ),
        max_size=40,
        unique_by=lambda row: row[:2],
    )
)
def test_matching_invariants(rows: list[tuple[int, int, float, bool]]) -> None:
    table = np.array([(a, b, iou, same) for a, b, iou, same in rows], float).reshape(-1, 4)
    old, new = match_pools(table[:, 0], table[:, 1], table[:, 2], table[:, 3])
    usable = {(a, b): iou for a, b, iou, same in rows if same and iou >= 0.9}
    pairs = list(zip(old.tolist(), new.tolist(), strict=True))
    assert len(set(old.tolist())) == len(old) == len(set(new.tolist()))
    assert all(pair in usable for pair in pairs)
    # the same as taking candidates one after the other, best first
    taken: list[tuple[int, int]] = []
    for a, b in sorted(usable, key=lambda pair: (-usable[pair], pair)):
        if a not in {x for x, _ in taken} and b not in {y for _, y in taken}:
            taken.append((a, b))
    assert sorted(pairs) == sorted(taken)


def test_answers_are_carried_over_without_their_randomness() -> None:
    log = AnswerLog(
        item=np.array([4, 2, 4, 9]),
        yes=np.array([1.0, 0.0, 0.2, 1.0], np.float32),
        cluster=np.array([77, -5, -2, 3]),
        stream=np.array([0, 1, 2, 1], np.int8),
        inclusion=np.array([0.1, 0.2, 0.3, 0.4]),
    )
    carried, rows = carry_over(log, [4, 2, 9], [0, 1, 2], [0.97, 0.91, 0.6], [True, True, True])
    assert rows.tolist() == [0, 1, 2]
    assert carried.item.tolist() == [0, 1, 0]
    np.testing.assert_allclose(carried.yes, [1.0, 0.0, 0.2])
    assert (carried.cluster == -1).all()
    assert (carried.stream == Stream.SEARCH).all()
    assert (carried.inclusion == 1.0).all()
    assert len(carry_over(AnswerLog.empty(), [0], [0], [1.0], [True])[0]) == 0
    assert len(carry_over(log, [], [], [], [])[0]) == 0


def test_carried_answers_save_questions_and_are_not_asked_again() -> None:
    tree, pool, truth = known_pool(1500)
    log, _ = answer_all(Certified(), tree, pool, truth, budget=60)
    rows = np.arange(1500)
    carried, _ = carry_over(log, rows, rows, np.ones(1500), np.ones(1500, bool))
    step = Certified().step(tree, pool, carried, budget=400, seed=1)
    assert not np.isin(step.questions.item, carried.item).any()
    np.testing.assert_array_equal(step.label[carried.item] > 0, truth[carried.item])
    again, done = carried, step
    while len(done.questions):
        again = again.extended(done.questions, truth[done.questions.item])
        done = Certified().step(tree, pool, again, budget=400, seed=1)
    assert (done.label > 0).sum() > 300
