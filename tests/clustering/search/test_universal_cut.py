"""The universal cut: each cluster of one partition is judged once."""

from __future__ import annotations

import pytest

from clustering.search import UniversalCut
from tests.clustering.search_pools import answer_all, known_pool


def test_universal_cut_judges_each_cluster_once() -> None:
    tree, pool, truth = known_pool(400)
    log, step = answer_all(UniversalCut(clusters=10, prior=0.0), tree, pool, truth, budget=1000)
    large = tree.cut_into(10)[tree.size[tree.cut_into(10)] >= 15]
    assert sorted(step.decisions.cluster) == sorted(large)
    assert len(log) == 15 * len(large)
    with pytest.raises(ValueError, match="clusters"):
        UniversalCut(clusters=0)
