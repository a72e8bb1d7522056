"""Labels with provenance, withdrawal, and answers carried over to another pool."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustering.answers import AnswerLog, Stream
from clustering.propagation import carry_over, match_pools, propagate, withdraw
from clustering.search import POLICIES, Certified, Original, make_policy
from tests.clustering.search_pools import answer_all, flat_pool, known_pool


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_label_is_explained(name: str) -> None:
    tree, pool, truth = known_pool(1500)
    log, step = answer_all(make_policy(name), tree, pool, truth, budget=60)
    result = propagate(step, log)
    np.testing.assert_array_equal(result.label, step.label)
    np.testing.assert_array_equal(np.flatnonzero(result.verified), np.unique(log.item))
    labelled = result.label != 0
    np.testing.assert_array_equal(labelled, result.verified | (result.decision >= 0))
    for item in np.random.default_rng(0).choice(np.flatnonzero(labelled), 40, replace=False).tolist():
        why = result.explain(item, tree, log)
        assert why.label == result.label[item]
        assert len(why.answers) > 0
        if why.verified:
            assert why.test == "verdict"
            assert (log.item[why.answers] == item).all()
            assert np.isnan(why.lower)
        else:
            assert why.test in step.decisions.test
            assert 0.0 <= why.lower <= why.upper <= 1.0
            assert result.purity[item] == why.lower
            if why.cluster >= 0:
                assert tree.is_member(why.cluster, log.item[why.answers]).all()
                assert tree.is_member(why.cluster, item)
    for item in np.flatnonzero(~labelled)[:1].tolist():  # lsun settles the whole pool
        assert result.explain(item, tree, log).test == ""
    with pytest.raises(ValueError, match="pool has 1500 rows"):
        result.explain(1500, tree, log)


def test_a_certified_label_names_the_answers_of_its_test() -> None:
    tree, pool, truth = known_pool(1500)
    log, step = answer_all(Certified(), tree, pool, truth, budget=60)
    result = propagate(step, log)
    why = result.explain(int(np.flatnonzero(result.decision == 0)[0]), tree, log)
    streams = set(log.stream[why.answers].tolist())
    assert streams <= {Stream.CALIBRATION, Stream.AUDIT}
    assert Stream.CALIBRATION in streams


@pytest.mark.parametrize("name", ["original", "certified"])
def test_withdrawing_is_never_having_answered(name: str) -> None:
    tree, pool, truth = known_pool(1500)
    policy = make_policy(name)
    log, step = answer_all(policy, tree, pool, truth, budget=60)
    rows = np.random.default_rng(1).choice(len(log), 25, replace=False)
    rest, after = withdraw(policy, tree, pool, log, rows, budget=60, seed=0)
    assert len(rest) == len(log) - 25
    fresh = make_policy(name).step(tree, pool, rest, budget=60, seed=0)
    np.testing.assert_array_equal(after.label, fresh.label)
    np.testing.assert_array_equal(after.questions.item, fresh.questions.item)
    # what was withdrawn does not label its item by itself any more
    gone = np.setdiff1d(log.item[rows], rest.item)
    result = propagate(after, rest)
    assert not result.verified[gone].any()
    # answering again what is then asked leads back to a finished state
    while len(after.questions):
        rest = rest.extended(after.questions, truth[after.questions.item])
        after = policy.step(tree, pool, rest, budget=60, seed=0)
    assert after.done
    assert step.done


def test_one_withdrawn_answer_reopens_its_cluster() -> None:
    tree, pool, truth = flat_pool(100)
    log, step = answer_all(Original(), tree, pool, truth, budget=20)
    assert (step.label == 1).all()
    rest, after = withdraw(Original(), tree, pool, log, [4], budget=20, seed=0)
    assert (after.label == 1).sum() == 14
    assert after.questions.item.tolist() == [int(log.item[4])]
    assert len(rest) == 14


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
