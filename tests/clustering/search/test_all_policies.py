"""What every policy must do: a pure step, sound answers to any log, an end on degenerate pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustering.answers import AnswerLog, Stream
from clustering.project_pool import ProjectPool
from clustering.search import POLICIES, Certified, Original, make_policy
from tests.clustering.search_pools import answer_all, flat_pool, known_pool, old_answers


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_step_is_a_pure_function(name: str) -> None:
    tree, pool, truth = known_pool(400)
    policy = make_policy(name)
    log = AnswerLog.empty()
    for _ in range(4):
        step = policy.step(ProjectPool.single(pool, tree), log, budget=40, seed=3)
        again = make_policy(name).step(ProjectPool.single(pool, tree), log, budget=40, seed=3)
        for part in ("item", "cluster", "phase", "stream", "inclusion", "form", "sheet"):
            np.testing.assert_array_equal(getattr(step.questions, part), getattr(again.questions, part))
        np.testing.assert_array_equal(step.label, again.label)
        if not len(step.questions):
            break
        log = log.extended(step.questions, truth[step.questions.item])


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("n", [0, 1, 2, 3, 40, 70])
def test_degenerate_pools_end(name: str, n: int) -> None:
    tree, pool, truth = flat_pool(n, good=0.9)
    log, step = answer_all(make_policy(name), tree, pool, truth, budget=10)
    assert step.done
    assert step.label.shape == (n,)
    verified = np.unique(log.item)
    np.testing.assert_array_equal(step.label[verified] > 0, truth[verified])
    assert len(np.unique(log.item)) == len(log)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_own_verdict_labels_its_item(name: str) -> None:
    tree, pool, truth = known_pool(400)
    log, step = answer_all(make_policy(name), tree, pool, truth, budget=50)
    assert len(log)
    np.testing.assert_array_equal(step.label[log.item] > 0, truth[log.item])
    assert (step.decision[log.item] == -1).all()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_questions_do_not_depend_on_the_order_of_answers(name: str) -> None:
    tree, pool, truth = known_pool(400)
    policy = make_policy(name)
    first = policy.step(ProjectPool.single(pool, tree), AnswerLog.empty(), budget=45, seed=0).questions
    log = AnswerLog.empty().extended(first, truth[first.item])
    shuffled = log.take(np.random.default_rng(0).permutation(len(log)))
    ours, theirs = (
        policy.step(ProjectPool.single(pool, tree), part, budget=45, seed=0) for part in (log, shuffled)
    )
    np.testing.assert_array_equal(ours.questions.item, theirs.questions.item)
    np.testing.assert_array_equal(ours.label, theirs.label)


def test_bad_arguments_are_named() -> None:
    tree, pool, _ = flat_pool(20)
    other = flat_pool(21)[1]
    with pytest.raises(ValueError, match="build the tree from it"):
        ProjectPool.single(other, tree)
    with pytest.raises(ValueError, match="needs the cluster trees"):
        Original().step(ProjectPool.single(pool), AnswerLog.empty(), budget=1, seed=0)
    stray = old_answers([20], [1])
    project = ProjectPool.single(pool, tree)
    for policy in (Original(), Certified()):
        with pytest.raises(ValueError, match="budget"):
            policy.step(project, AnswerLog.empty(), budget=-1, seed=0)
        with pytest.raises(ValueError, match="pool has 20 rows"):
            policy.step(project, stray, budget=1, seed=0)
    with pytest.raises(ValueError, match="no policy is named"):
        make_policy("magic")
    with pytest.raises(ValueError, match="accept"):
        make_policy("original", accept=1.2)
    with pytest.raises(TypeError):
        make_policy("original", flavour=1)


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400), st.integers(0, 50))
def test_any_log_gives_a_sound_step(name: str, seed: int, m: int, budget: int) -> None:
    """Answers withdrawn, doubled, undecided, asked by another policy: nothing breaks."""
    tree, pool, _ = known_pool(400)
    rng = np.random.default_rng(seed)
    log = AnswerLog(
        item=rng.integers(0, 400, m),
        yes=rng.choice(np.array([0.0, 0.5, 1.0], np.float32), m),
        answer=rng.choice(np.array([0.0, np.nan, 1.0], np.float32), m),
        cluster=rng.integers(-1, len(tree.parent), m),
        phase=rng.choice([-1, 0, 1, 2, 9, 10, 19, 20, 29, 90], m),
        stream=rng.integers(0, len(Stream), m).astype(np.int8),
        inclusion=rng.uniform(0.01, 1.0, m),
    )
    step = make_policy(name).step(ProjectPool.single(pool, tree), log, budget=budget, seed=seed)
    asked = step.questions
    assert len(asked) <= budget
    assert len(np.unique(asked.item)) == len(asked)
    assert ((asked.inclusion > 0) & (asked.inclusion <= 1)).all()
    assert not (step.done and len(asked))
    assert set(np.unique(step.label)) <= {-1, 0, 1}
    assert ((step.decision >= -1) & (step.decision < len(step.decisions))).all()
    assert (step.decisions.lower <= step.decisions.upper).all()
    own = log.take(log.stream != Stream.CARRIED)
    latest = {int(i): float(y) for i, y in zip(own.item, own.yes, strict=True)}
    for item, yes in latest.items():
        if yes != 0.5:
            assert step.label[item] == (1 if yes > 0.5 else -1)
            assert step.decision[item] == -1
