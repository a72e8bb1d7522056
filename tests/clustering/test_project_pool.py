"""The pools of all labels as one: rows are numbered through, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.answers import AnswerLog
from clustering.pool import Pool
from clustering.project_pool import ProjectPool
from clustering.search import Original
from tests.clustering.search_pools import answer_all, known_pool


def _pool(n: int, width: int = 3) -> Pool:
    side = np.linspace(0.1, 0.9, n).astype(np.float32)
    return Pool(np.full((n, width), n, np.float32), side, side, np.zeros((n, 1), np.float32))


def test_rows_of_all_labels_are_numbered_through() -> None:
    project = ProjectPool([_pool(3), _pool(0, 0), _pool(2)])
    assert len(project) == 5
    assert project.offset.tolist() == [0, 3, 3, 5]
    assert project.label.tolist() == [0, 0, 0, 2, 2]
    np.testing.assert_array_equal(project.columns.embedding[:, 0], [3, 3, 3, 2, 2])
    np.testing.assert_array_equal(project.columns.score[3:], _pool(2).score)
    only = _pool(4)
    assert ProjectPool.single(only).columns is only
    assert len(ProjectPool([])) == len(ProjectPool([]).columns) == 0


def test_what_does_not_fit_is_refused() -> None:
    tree, pool, _ = known_pool(80)
    with pytest.raises(ValueError, match="different widths"):
        ProjectPool([_pool(3, 3), _pool(3, 4)])
    with pytest.raises(ValueError, match="1 trees for 2 pools"):
        ProjectPool([pool, pool], [tree])
    with pytest.raises(ValueError, match="build the tree from it"):
        ProjectPool([_pool(3)], [tree])


def test_a_policy_of_single_labels_plays_each_on_its_own() -> None:
    """Labels, questions and decisions are those of the label alone, moved to its rows."""
    tree, pool, truth = known_pool(400)
    alone_log, alone = answer_all(Original(), tree, pool, truth, budget=1000)
    project = ProjectPool([pool, pool], [tree, tree])
    log, both = AnswerLog.empty(), np.concatenate([truth, truth])
    while len((step := Original().step(project, log, budget=2000, seed=0)).questions):
        log = log.extended(step.questions, both[step.questions.item])
    mine = log.take(log.item < 400)
    np.testing.assert_array_equal(mine.item, alone_log.item)
    np.testing.assert_array_equal(step.label[:400], alone.label)
    first = step.decisions.label == 0
    assert set(np.unique(step.decisions.label)) == {0, 1}
    assert first.sum() == len(alone.decisions)
    # a mask's decision is one of its own label
    by_rule = np.flatnonzero(step.decision >= 0)
    np.testing.assert_array_equal(step.decisions.label[step.decision[by_rule]], project.label[by_rule])
