"""Labels with provenance, and answers that are withdrawn."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.project_pool import ProjectPool
from clustering.propagation import propagate
from clustering.search import POLICIES, Original, make_policy
from tests.clustering.search_pools import answer_all, flat_pool, known_pool, strong_pool


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_label_is_explained(name: str) -> None:
    tree, pool, truth = known_pool(1500)
    log, step = answer_all(make_policy(name), tree, pool, truth, budget=60)
    result = propagate(step, log)
    np.testing.assert_array_equal(result.label, step.label)
    np.testing.assert_array_equal(np.flatnonzero(result.verified), np.unique(log.item))
    np.testing.assert_array_equal(result.accepted, np.flatnonzero(step.label > 0))
    labelled = result.label != 0
    np.testing.assert_array_equal(labelled, result.verified | (result.decision >= 0))
    assert not (result.verified & (result.decision >= 0)).any()
    by_rule = np.flatnonzero(result.decision >= 0)
    rows = result.decision[by_rule]
    np.testing.assert_array_equal(result.purity[by_rule], step.decisions.lower[rows])
    assert np.isnan(result.purity[result.decision < 0]).all()
    for item, row in zip(by_rule.tolist(), rows.tolist(), strict=True):
        node = int(step.decisions.cluster[row])
        if node >= 0:
            assert tree.is_member(node, item)


def test_masks_that_people_saw_do_not_carry_the_bound_of_the_others() -> None:
    tree, pool, truth = strong_pool(1000)
    log, step = answer_all(make_policy("certified"), tree, pool, truth, budget=60)
    result = propagate(step, log)
    unseen = result.accepted[~result.verified[result.accepted]]
    assert len(unseen)
    assert not np.isin(unseen, log.item).any()
    assert (result.purity[unseen] == 0.85).all()
    assert np.isnan(result.purity[np.unique(log.item)]).all()


@pytest.mark.parametrize("name", ["original", "certified"])
def test_withdrawing_is_never_having_answered(name: str) -> None:
    tree, pool, truth = known_pool(1500)
    policy, project = make_policy(name), ProjectPool.single(pool, tree)
    log, step = answer_all(policy, tree, pool, truth, budget=60)
    gone_rows = np.random.default_rng(1).choice(len(log), 25, replace=False)
    rest = log.take(np.setdiff1d(np.arange(len(log)), gone_rows))
    after = policy.step(project, rest, budget=60, seed=0)
    fresh = make_policy(name).step(project, rest, budget=60, seed=0)
    np.testing.assert_array_equal(after.label, fresh.label)
    np.testing.assert_array_equal(after.questions.item, fresh.questions.item)
    # a withdrawn verdict no longer labels its item
    gone = np.setdiff1d(log.item[gone_rows], rest.item)
    assert not propagate(after, rest).verified[gone].any()
    # answering what is asked now finishes the pool again
    _, again = answer_all(policy, tree, pool, truth, budget=60, log=rest)
    assert again.done
    assert step.done


def test_one_withdrawn_answer_reopens_its_cluster() -> None:
    tree, pool, truth = flat_pool(100)
    log, step = answer_all(Original(), tree, pool, truth, budget=20)
    assert (step.label == 1).all()
    rest = log.take(np.setdiff1d(np.arange(len(log)), [4]))
    after = Original().step(ProjectPool.single(pool, tree), rest, budget=20, seed=0)
    assert (after.label == 1).sum() == 14
    assert after.questions.item.tolist() == [int(log.item[4])]
