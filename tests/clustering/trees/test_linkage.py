"""Linkages: exact against scipy, two-level by invariants and against the exact one, degenerate pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.stats import spearmanr

from clustering.pool import Pool
from clustering.trees.distance import condensed_distances, sample_standardisation
from clustering.trees.linkage import ExactLinkage, Linkage, TwoLevelLinkage, choose_linkage, grow_tree
from clustering.trees.tree import ClusterTree


def _blobs(n: int, blobs: int, seed: int = 0, dim: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Well separated groups: embedding, prior and the group of each instance."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, blobs, n)
    embedding = (6.0 * rng.normal(size=(blobs, dim)))[group] + rng.normal(size=(n, dim))
    return embedding.astype(np.float32), np.clip(0.5 + 0.1 * rng.normal(size=n), 0, 1), group


def _pool(embedding: np.ndarray, prior: np.ndarray) -> Pool:
    n = len(prior)
    ones = np.ones(n, np.float32)
    return Pool(embedding.astype(np.float32), prior.astype(np.float32), ones, np.zeros((n, 0), np.float32))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 10**6))
def test_exact_heights_equal_scipy(n: int, seed: int) -> None:
    embedding, prior, _ = _blobs(n, 4, seed)
    ours = ExactLinkage().merges(embedding, prior)
    reference = hierarchy.linkage(condensed_distances(embedding, prior), "complete")
    assert hierarchy.is_valid_linkage(ours)
    np.testing.assert_allclose(ours[:, 2:], reference[:, 2:], atol=1e-12)
    np.testing.assert_allclose(hierarchy.cophenet(ours), hierarchy.cophenet(reference), atol=1e-12)


def test_exact_refuses_a_pool_beyond_the_budget_with_a_hint() -> None:
    embedding, prior, _ = _blobs(200, 3)
    with pytest.raises(ValueError, match=r"exact linkage of 200 instances needs .* use TwoLevelLinkage"):
        ExactLinkage(memory_bytes=1000).merges(embedding, prior)


def test_two_level_refuses_a_hopeless_budget() -> None:
    embedding, prior, _ = _blobs(2500, 3)
    with pytest.raises(ValueError, match="too small for this pool"):
        TwoLevelLinkage(memory_bytes=1000).merges(embedding, prior, seed=0)


def test_the_choice_follows_size_and_budget() -> None:
    assert choose_linkage(0).name == "exact"
    assert choose_linkage(10_000).name == "exact"
    assert choose_linkage(10_000, 100 << 20).name == "two-level"
    assert choose_linkage(10**6).name == "two-level"


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(3, 300),
    leaves=st.integers(1, 60),
    spread=st.integers(1, 5),
    seed=st.integers(0, 1000),
    repeats=st.booleans(),
)
def test_two_level_is_a_tree_whatever_the_leaves(
    n: int, leaves: int, spread: int, seed: int, repeats: bool
) -> None:
    embedding, prior, _ = _blobs(n, 5, seed, dim=3)
    if repeats:  # many equal points
        embedding, prior = embedding[np.arange(n) % 3], prior[np.arange(n) % 3]
    merges = TwoLevelLinkage(leaves=leaves, spread=spread).merges(embedding, prior, seed=seed)
    assert hierarchy.is_valid_linkage(merges)
    assert (np.diff(merges[:, 2]) >= 0).all()
    tree = ClusterTree.from_linkage(merges)  # checks the rest
    assert len(tree) == n


def test_two_level_finds_what_the_exact_tree_finds() -> None:
    """Complete linkage is unstable: the yardstick is the exact tree of the pool with a little noise."""
    embedding, prior, group = _blobs(5000, 25)
    rng = np.random.default_rng(0)
    noisy = embedding + 0.3 * rng.normal(size=embedding.shape)
    exact = ClusterTree.from_linkage(ExactLinkage().merges(embedding, prior))
    again = ClusterTree.from_linkage(ExactLinkage().merges(noisy, prior))
    ours = ClusterTree.from_linkage(TwoLevelLinkage().merges(embedding, prior, seed=0))
    first = rng.integers(0, 5000, 20_000)
    second = (first + rng.integers(1, 5000, 20_000)) % 5000
    heights = [tree.node_height()[tree.common_ancestor(first, second)] for tree in (exact, again, ours)]
    agreement = np.corrcoef(heights)[0]
    assert agreement[2] > 0.8 * agreement[1]
    # height tells distance about as well as in the exact tree
    scales = sample_standardisation(embedding, prior, seed=0)
    raw = scales.appearance_scale * np.linalg.norm(embedding[first] - embedding[second], axis=1)
    raw += scales.prior_scale * np.abs(prior[first] - prior[second])
    assert spearmanr(raw, heights[2])[0] > 0.7 * spearmanr(raw, heights[0])[0]
    # and 200 clusters of a cut are as pure: nearly all members of each belong to one of the 25 groups
    shares = [_dominated(tree, group, 200) for tree in (exact, ours)]
    assert shares[1] > 0.97 * shares[0]
    assert shares[1] > 0.9


def _dominated(tree: ClusterTree, group: np.ndarray, clusters: int) -> float:
    parts = [group[tree.members(node)] for node in tree.cut_into(clusters)]
    return sum(int(np.bincount(part).max()) for part in parts) / len(tree)


@pytest.mark.parametrize("options", [{"leaves": -1}, {"spread": 0}, {"weight": 0.0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TwoLevelLinkage(**options)


@pytest.mark.parametrize("linkage", [ExactLinkage(), TwoLevelLinkage(), TwoLevelLinkage(leaves=3)])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 10])
def test_tiny_and_equal_pools(linkage: Linkage, n: int) -> None:
    embedding, prior, _ = _blobs(n, 2)
    assert len(grow_tree(_pool(embedding, prior), linkage=linkage, seed=0)) == n
    equal = grow_tree(_pool(np.full((n, 4), 0.3), np.full(n, 0.9)), linkage=linkage, seed=0)
    assert len(equal) == n
    np.testing.assert_array_equal(equal.height, np.zeros(max(0, n - 1)))


def test_a_large_pool_of_equal_instances_gives_a_shallow_tree() -> None:
    tree = grow_tree(_pool(np.full((20_000, 4), 0.3), np.full(20_000, 0.9)), seed=0)
    np.testing.assert_array_equal(tree.height, np.zeros(19_999))


def test_a_leaf_that_k_means_cannot_divide_is_divided_anyway() -> None:
    rng = np.random.default_rng(0)
    embedding = np.zeros((9000, 6), np.float32)
    embedding[:500] = rng.normal(size=(500, 6))  # the others are copies of one
    tree = ClusterTree.from_linkage(TwoLevelLinkage().merges(embedding, np.full(9000, 0.5), seed=0))
    together = tree.common_ancestor(np.full(8499, 500), np.arange(501, 9000))
    assert tree.size[together.max()] < 9000
    np.testing.assert_allclose(tree.node_height()[together], 0.0, atol=1e-3)


@pytest.mark.parametrize("linkage", [ExactLinkage(), TwoLevelLinkage()])
@pytest.mark.parametrize("where", ["embedding", "prior"])
def test_values_that_are_not_finite_are_refused(linkage: Linkage, where: str) -> None:
    embedding, prior, _ = _blobs(50, 3)
    (embedding if where == "embedding" else prior)[7] = np.nan
    with pytest.raises(ValueError, match=f"{where} holds a value that is not finite"):
        linkage.merges(embedding, prior, seed=0)


def test_the_same_seed_gives_the_same_merges_and_leaves_the_input_alone() -> None:
    embedding, prior, _ = _blobs(6000, 10)
    before = embedding.copy(), prior.copy()
    first = TwoLevelLinkage().merges(embedding, prior, seed=4)
    np.testing.assert_array_equal(first, TwoLevelLinkage().merges(embedding, prior, seed=4))
    assert not np.array_equal(first, TwoLevelLinkage().merges(embedding, prior, seed=5))
    np.testing.assert_array_equal(embedding, before[0])
    np.testing.assert_array_equal(prior, before[1])


def test_the_prior_separates_masks_that_look_alike() -> None:
    """The quality term of D: among equal-looking masks the root divides good from bad."""
    rng = np.random.default_rng(0)
    prior = np.concatenate([rng.normal(0.9, 0.01, 2000), rng.normal(0.2, 0.01, 2000)])
    embedding = 0.01 * rng.normal(size=(4000, 8)).astype(np.float32)
    pure = {}
    for linkage in (ExactLinkage(), TwoLevelLinkage()):
        for name, column in (("with", prior), ("without", np.full(4000, 0.5))):
            tree = ClusterTree.from_linkage(linkage.merges(embedding, column, seed=0))
            cut = tree.cut_into(16)
            purity = tree.means(prior > 0.5)[cut]
            pure[name] = float(np.maximum(purity, 1 - purity) @ tree.size[cut]) / 4000
        assert pure["with"] > 0.9
        assert pure["without"] < 0.65
