"""ClusterTree: invariants on any merges, scipy as the independent reference, files that are damaged."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy

from clustering.trees.tree import ClusterTree


def _merges(n: int, seed: int, method: str = "complete") -> np.ndarray:
    """Merges of n random points, some of them equal."""
    rng = np.random.default_rng(seed)
    points = np.round(rng.normal(size=(n, 2)), 1)
    return hierarchy.linkage(points, method) if n > 1 else np.zeros((0, 4))


def _chain(n: int) -> np.ndarray:
    """Merges that add one instance after the other: the deepest tree."""
    table = np.zeros((n - 1, 4))
    table[:, 0] = np.concatenate([[0], np.arange(n, 2 * n - 2)])
    table[:, 1] = np.arange(1, n)
    table[:, 2] = np.arange(n - 1)
    table[:, 3] = np.arange(2, n + 1)
    return table


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    method=st.sampled_from(["complete", "single", "average"]),
)
def test_invariants(n: int, seed: int, method: str) -> None:
    tree = ClusterTree.from_linkage(_merges(n, seed, method), n)
    assert len(tree) == n
    assert tree.root == 2 * n - 2
    assert len(tree.left) == len(tree.right) == len(tree.height) == n - 1
    assert sorted(tree.order) == list(range(n))
    np.testing.assert_array_equal(np.sort(tree.members(tree.root)), np.arange(n))
    assert tree.parent[tree.root] == -1
    for node in range(n):
        assert tree.members(node).tolist() == [node]
        assert tree.children(node) is None
    for node in range(n, 2 * n - 1):
        left, right = tree.children(node)
        assert tree.parent[left] == tree.parent[right] == node
        np.testing.assert_array_equal(
            np.concatenate([tree.members(left), tree.members(right)]), tree.members(node)
        )
        assert tree.node_height()[node] >= max(tree.node_height()[left], tree.node_height()[right])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 50), seed=st.integers(0, 10**6))
def test_agrees_with_scipy(n: int, seed: int) -> None:
    merges = _merges(n, seed)
    tree = ClusterTree.from_linkage(merges)
    reference, nodes = hierarchy.to_tree(merges, rd=True)
    for node in nodes:
        assert set(tree.members(node.id)) == set(node.pre_order())
    assert reference.count == tree.size[tree.root]
    first, second = np.triu_indices(n, 1)
    together = tree.common_ancestor(first, second)
    np.testing.assert_allclose(tree.node_height()[together], hierarchy.cophenet(merges))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 50), seed=st.integers(0, 10**6), columns=st.sampled_from([(), (3,)]))
def test_sums_and_means_equal_those_over_the_members(n: int, seed: int, columns: tuple[int, ...]) -> None:
    tree = ClusterTree.from_linkage(_merges(n, seed), n)
    values = np.random.default_rng(seed).random((n, *columns)).astype(np.float32)
    sums, means = tree.sums(values), tree.means(values)
    assert sums.shape == means.shape == (2 * n - 1, *columns)
    assert means.dtype == np.float64
    for node in range(2 * n - 1):
        inside = values[tree.members(node)].astype(np.float64)
        np.testing.assert_allclose(sums[node], inside.sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(means[node], inside.mean(axis=0), atol=1e-9)


def test_membership_ancestors_and_depth_agree() -> None:
    tree = ClusterTree.from_linkage(_merges(40, 7))
    nodes = np.arange(2 * 40 - 1)
    for item in range(40):
        above = tree.ancestors(item)
        assert above[-1] == tree.root
        assert len(above) == tree.depth()[item]
        inside = np.flatnonzero(tree.is_member(nodes, item))
        np.testing.assert_array_equal(np.sort([item, *above]), inside)
    assert tree.ancestors(tree.root).tolist() == []
    assert tree.is_member(tree.root, np.arange(40)).all()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 50), seed=st.integers(0, 10**6))
def test_cuts_are_partitions_and_equal_scipy(n: int, seed: int) -> None:
    merges = _merges(n, seed)
    tree = ClusterTree.from_linkage(merges)
    middle = float(np.median(tree.height))
    for height in (-1.0, middle, tree.height[-1]):
        cut = tree.cut(height)
        np.testing.assert_array_equal(np.concatenate([tree.members(node) for node in cut]), tree.order)
        reference = hierarchy.fcluster(merges, height, "distance")
        assert all(len(set(reference[tree.members(node)])) == 1 for node in cut)
        assert len(cut) == len(set(reference))
    for clusters in {1, 2, n // 2, n} - {0}:
        cut = tree.cut_into(clusters)
        assert len(cut) == clusters
        np.testing.assert_array_equal(np.concatenate([tree.members(node) for node in cut]), tree.order)
    with pytest.raises(ValueError, match=f"cannot cut a tree of {n} instances into {n + 1}"):
        tree.cut_into(n + 1)


def test_a_chain_of_two_hundred_thousand_merges_needs_no_recursion() -> None:
    n = 200_000
    tree = ClusterTree.from_linkage(_chain(n))
    assert tree.depth().max() == n - 1
    assert tree.members(n + 41).tolist() == list(range(43))
    np.testing.assert_allclose(tree.means(np.arange(n))[n:], (np.arange(n - 1) + 1) / 2)


def test_nobody_one_and_two() -> None:
    nobody = ClusterTree.from_linkage(np.zeros((0, 4)), 0)
    assert (len(nobody), nobody.root, len(nobody.parent)) == (0, -1, 0)
    assert nobody.means(np.zeros(0)).shape == (0,)
    assert nobody.cut(1.0).tolist() == nobody.cut_into(1).tolist() == nobody.depth().tolist() == []
    one = ClusterTree.from_linkage(np.zeros((0, 4)))
    assert (len(one), one.root, one.children(0)) == (1, 0, None)
    assert one.cut_into(1).tolist() == one.members(0).tolist() == [0]
    two = ClusterTree.from_linkage([[0, 1, 0.5, 2]])
    assert (len(two), two.root, two.children(2)) == (2, 2, (0, 1))
    assert two.cut_into(2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("merges", "n", "message"),
    [
        ([[0, 1, 1.0, 2]], 3, "1 merges for 3 instances"),
        ([[0, 1, 1.0, 2], [0, 2, 2.0, 2]], 3, "not merged exactly once"),
        ([[0, 4, 1.0, 2], [1, 2, 2.0, 2]], 3, "does not exist yet"),
        ([[0, -1, 1.0, 2]], 2, "does not exist yet"),
        ([[0, 1, 2.0, 2], [2, 3, 1.0, 3]], 3, "lower than one of its children"),
        ([[0, 1, 1.0, 2], [2, 3, 2.0, 4]], 3, "number of members"),
        ([[0, 1, np.nan, 2]], 2, "not finite"),
        ([[0, 0.5, 1.0, 2]], 2, "whole number"),
        ([[0, 1, 1.0]], 2, r"expected \(n-1, 4\)"),
        (np.zeros((0, 4)), -1, "binary tree"),
    ],
)
def test_bad_merges_are_refused(merges: object, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterTree.from_linkage(merges, n)


def test_values_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="tree has 2 instances"):
        ClusterTree.from_linkage([[0, 1, 0.5, 2]]).means(np.zeros(3))


@pytest.mark.parametrize("n", [0, 1, 2, 33])
def test_saved_and_loaded_is_the_same(n: int, tmp_path: Path) -> None:
    tree = ClusterTree.from_linkage(_merges(n, 5) if n else np.zeros((0, 4)), n)
    path = tmp_path / "tree.of-anything"
    tree.save(path)
    memory = io.BytesIO()
    tree.save(memory)
    memory.seek(0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree.of-anything"]
    for again in (ClusterTree.load(path), ClusterTree.load(memory)):
        for name in ("left", "right", "height", "parent", "order", "start", "stop"):
            ours, theirs = getattr(tree, name), getattr(again, name)
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tree.npz"
    with pytest.raises(FileNotFoundError):
        ClusterTree.load(path)
    ClusterTree.from_linkage(_merges(50, 1)).save(path)
    good = path.read_bytes()
    for damaged in (b"", b"not an archive", good[: len(good) // 2], good[:200] + b"\0" * 80 + good[280:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="tree"):
            ClusterTree.load(path)


def _arrays(**changes: object) -> dict[str, object]:
    arrays: dict[str, object] = {
        "format": np.int64(1),
        "n": np.int64(2),
        "left": np.array([0]),
        "right": np.array([1]),
        "height": np.array([0.5]),
        "size": np.array([2]),
    }
    return arrays | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": np.int64(2)}, "format 2"),
        ({"left": np.array([0.0])}, "left of the saved tree"),
        ({"height": np.array([1], np.int32)}, "height of the saved tree"),
        ({"right": np.array([0])}, "not merged exactly once"),
        ({"n": np.int64(9)}, "1 merges for 9"),
        ({"left": np.array([None], object)}, "not a saved cluster tree"),
    ],
)
def test_archives_that_hold_no_tree_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "tree.npz", **_arrays(**changes))
    with pytest.raises(ValueError, match=message):
        ClusterTree.load(tmp_path / "tree.npz")


def test_an_archive_that_lacks_an_array_is_refused(tmp_path: Path) -> None:
    arrays = _arrays()
    del arrays["size"]
    np.savez(tmp_path / "tree.npz", **arrays)
    with pytest.raises(ValueError, match="size"):
        ClusterTree.load(tmp_path / "tree.npz")
