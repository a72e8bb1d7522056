"""The published search and its other orders: thresholds, inheritance of answers, order of the frontier."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import Action, AnswerLog, Stream
from clustering.project_pool import ProjectPool
from clustering.search import Original, make_policy
from tests.clustering.search_pools import answer_all, flat_pool, known_pool, old_answers, play_through

FRONTIERS = ("original", "breadth-first", "depth-first", "random")


def test_a_partly_answered_draw_asks_the_rest() -> None:
    tree, pool, truth = flat_pool(100)
    policy = Original()
    whole = policy.step(ProjectPool.single(pool, tree), AnswerLog.empty(), budget=100, seed=0).questions
    assert len(whole) == 15
    assert (whole.cluster == tree.root).all()
    assert (whole.stream == Stream.SEARCH).all()
    np.testing.assert_allclose(whole.inclusion, 0.15)
    half = AnswerLog.empty().extended(whole.take(slice(0, 6)), truth[whole.item[:6]])
    rest = policy.step(ProjectPool.single(pool, tree), half, budget=100, seed=0).questions
    assert sorted(rest.item) == sorted(whole.item[6:])


@pytest.mark.parametrize(
    ("yes", "action"),
    [(15, Action.ACCEPT), (13, Action.ACCEPT), (12, Action.SPLIT), (3, Action.SPLIT), (2, Action.REJECT)],
)
def test_thresholds_of_the_published_rule(yes: int, action: Action) -> None:
    tree, pool, _ = flat_pool(100)
    policy = Original()
    asked = policy.step(ProjectPool.single(pool, tree), AnswerLog.empty(), budget=15, seed=0).questions
    log = AnswerLog.empty().extended(asked, np.arange(15) < yes)
    step = policy.step(ProjectPool.single(pool, tree), log, budget=0, seed=0)
    assert step.decisions.cluster[0] == tree.root
    assert step.decisions.action[0] == action
    assert (step.decisions.asked[0], step.decisions.yes[0]) == (15, yes)
    assert step.decisions.lower[0] < yes / 15 <= step.decisions.upper[0]
    propagated = step.decision == 0
    if action == Action.SPLIT:
        assert not propagated.any()
    else:
        assert propagated.sum() == 85
        assert (step.label[propagated] == (1 if action == Action.ACCEPT else -1)).all()


def test_rejecting_can_be_switched_off() -> None:
    tree, pool, _ = flat_pool(100)
    asked = Original().step(ProjectPool.single(pool, tree), AnswerLog.empty(), budget=15, seed=0).questions
    log = AnswerLog.empty().extended(asked, np.zeros(15))
    step = Original(reject=0.0).step(ProjectPool.single(pool, tree), log, budget=15, seed=0)
    assert step.decisions.action[0] == Action.SPLIT


def test_low_priors_are_split_without_questions_and_small_clusters_dropped() -> None:
    tree, pool, _ = flat_pool(100, prior=0.5)
    step = Original().step(ProjectPool.single(pool, tree), AnswerLog.empty(), budget=100, seed=0)
    # the published rule splits nodes of a low prior only above the least size; at exactly that size it asks
    assert set(tree.size[step.questions.cluster]) <= {15}
    assert (
        Original(min_size=101)
        .step(ProjectPool.single(pool, tree), AnswerLog.empty(), budget=100, seed=0)
        .done
    )
    small_tree, small_pool, _ = flat_pool(14)
    assert (
        Original().step(ProjectPool.single(small_pool, small_tree), AnswerLog.empty(), budget=50, seed=0).done
    )
    asked = (
        Original(min_size=1)
        .step(ProjectPool.single(small_pool, small_tree), AnswerLog.empty(), budget=50, seed=0)
        .questions
    )
    assert len(asked) == 14  # judged by all members there are


def test_children_inherit_answers_and_ask_only_what_is_missing() -> None:
    tree, pool, truth = known_pool(400)
    reusing, _ = answer_all(Original(), tree, pool, truth, budget=100)
    renewing, _ = answer_all(Original(reuse=False), tree, pool, truth, budget=100)
    assert len(reusing) < len(renewing)
    _, step = answer_all(Original(), tree, pool, truth, budget=100)
    assert (step.decisions.asked == 15).all()


def test_a_judgement_stands_when_descendants_are_asked() -> None:
    """Later answers below a split node must not turn the split into an acceptance."""
    tree, pool, truth = known_pool(400)
    seen: dict[int, int] = {}
    for step in play_through(Original(), tree, pool, truth, budget=15):
        for cluster, action in zip(
            step.decisions.cluster.tolist(), step.decisions.action.tolist(), strict=True
        ):
            assert seen.setdefault(cluster, action) == action


@pytest.mark.parametrize("name", FRONTIERS)
def test_accepted_clusters_are_disjoint_and_not_asked_again(name: str) -> None:
    tree, pool, truth = known_pool(400)
    for step in play_through(make_policy(name), tree, pool, truth, budget=30):
        settled = step.decisions.action != Action.SPLIT
        nodes = step.decisions.cluster[settled]
        places = np.concatenate([np.arange(tree.start[v], tree.stop[v]) for v in nodes] or [np.zeros(0, int)])
        assert len(np.unique(places)) == len(places)
        assert not np.isin(step.questions.item, tree.order[places]).any()


def test_orders_differ_but_end_the_same() -> None:
    tree, pool, truth = known_pool(1500)
    first, final = {}, {}
    for name in FRONTIERS:
        steps = play_through(make_policy(name), tree, pool, truth, budget=15)
        first[name] = [int(step.questions.cluster[0]) for step in steps[:-1]]
        final[name] = steps[-1].label
    assert len({tuple(clusters) for clusters in first.values()}) == len(FRONTIERS)
    for name in FRONTIERS:
        np.testing.assert_array_equal(final[name], final["original"])


def test_score_order_is_the_published_loop() -> None:
    tree, pool, _ = known_pool(1500)
    means, sizes = tree.means(pool.prior), tree.size
    frontier, expected = [tree.root], []
    while frontier:
        node = max(frontier, key=lambda v: means[v])
        frontier.remove(node)
        children = tree.children(node)
        if sizes[node] < 15 or children is None:
            continue
        if means[node] < 0.7 and sizes[node] > 15:
            frontier.extend(children)
        else:
            expected.append(node)
    step = Original().step(ProjectPool.single(pool, tree), AnswerLog.empty(), budget=10_000, seed=0)
    _, at = np.unique(step.questions.cluster, return_index=True)
    assert len(expected) > 5
    assert step.questions.cluster[np.sort(at)].tolist() == expected


def test_carried_answers_count_as_inherited() -> None:
    tree, pool, truth = flat_pool(100)
    k = 15
    carried = old_answers(np.arange(k), np.ones(k))
    step = Original().step(ProjectPool.single(pool, tree), carried, budget=100, seed=0)
    assert step.done
    assert (step.label == 1).all()
    assert truth.all()
