"""The default policy: which of the two it is, and whose options it takes."""

from __future__ import annotations

import numpy as np
import pytest

from clustering.search import Auto, Certified, Original, make_policy
from tests.clustering.search_pools import answer_all, known_pool


def test_small_pools_follow_the_published_rule_and_large_ones_are_certified() -> None:
    tree, pool, truth = known_pool(1500)
    for auto, same in (
        (make_policy("auto"), Original()),
        (make_policy("auto", from_size=1500), Certified()),
        (make_policy("auto", from_size=1500, purity=0.8, delta=0.1), Certified(purity=0.8, delta=0.1)),
        (make_policy("auto", purity=0.9, min_size=30), Original(accept=0.9, min_size=30)),
    ):
        log, step = answer_all(auto, tree, pool, truth, budget=100)
        expected_log, expected = answer_all(same, tree, pool, truth, budget=100)
        np.testing.assert_array_equal(log.item, expected_log.item)
        np.testing.assert_array_equal(step.label, expected.label)
        assert step.decisions.test == expected.decisions.test


def test_options_are_checked_whatever_the_pool() -> None:
    with pytest.raises(TypeError, match="flavour"):
        Auto(flavour=1)
    with pytest.raises(ValueError, match="delta"):
        Auto(delta=2.0)
    with pytest.raises(ValueError, match="sample"):
        Auto(sample=0)
    with pytest.raises(ValueError, match="from_size"):
        Auto(from_size=-1)
