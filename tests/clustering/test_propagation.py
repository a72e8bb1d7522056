"""Labels with provenance, and answers that are withdrawn."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import Stream
from clustering.propagation import propagate, withdraw
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
    for item in np.flatnonzero(~labelled)[:1].tolist():  # none with lsun, which labels the whole pool
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
    # a withdrawn verdict no longer labels its item
    gone = np.setdiff1d(log.item[rows], rest.item)
    result = propagate(after, rest)
    assert not result.verified[gone].any()
    # answering what is asked now finishes the pool again
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
