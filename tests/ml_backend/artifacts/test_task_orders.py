"""Orders on disk: every task has a score of its own, later ones come in between."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ml_backend.artifacts.feature_store import add_features, known_features, read_features
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.task_orders import OrderCache, TaskOrder, place_among, read_order, write_order
from ml_backend.errors import StorageError


def order(tasks: list[int], scores: list[float], values: list[float], key: str = "k") -> TaskOrder:
    n = len(tasks)
    texts = np.array(['{"entropy": 0.5}'] * n, object)
    return TaskOrder(
        key, {"method": "ours"}, np.array(tasks), np.array(scores), np.array(values), np.array(values),
        np.ones(n), np.full(n, np.nan), np.full(n, -1), np.zeros(n, bool), np.ones(n),
        np.array(["p"] * n, object), texts,
    )  # fmt: skip


def test_new_tasks_get_places_of_their_own_between_the_others() -> None:
    value = np.array([0.9, 0.7, 0.5, 0.3])
    score = (np.arange(4) + 0.5) / 4
    new = np.array([0.6, 0.95, 0.6, 0.1, 0.7])
    placed = place_among(value, score, new)
    assert len(set(placed) | set(score)) == 9
    assert score[1] < placed[4] < placed[0] < placed[2] < score[2], "after an equal one"
    assert 0.0 < placed[1] < score[0]
    assert score[3] < placed[3] < 1.0
    again = place_among(np.concatenate([value, new]), np.concatenate([score, placed]), np.array([0.6]))
    assert placed[2] < again[0] < score[2]
    assert place_among(np.zeros(0), np.zeros(0), np.array([0.3])).tolist() == [0.5]


def test_places_run_out_with_an_error() -> None:
    with pytest.raises(ValueError, match="no room"):
        place_among(np.array([0.9, 0.1]), np.array([0.5, 0.5 + 1e-12]), np.array([0.5]))


def test_an_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "orders" / "v1.parquet"
    assert read_order(path) is None
    made = order([3, 5, 8], [0.5, 1 / 6, 5 / 6], [0.4, 0.9, 0.1])
    write_order(path, made)
    back = read_order(path)
    assert back is not None
    assert (back.key, back.about) == (made.key, made.about)
    for name in ("task_id", "score", "value", "similar", "part", "doubts", "explored", "gain"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
    assert back.score_of(5) == 1 / 6, "no digit is lost: two scores must not become one"
    assert back.score_of(4) is None
    entry = back.entry(8, among=[3, 8])
    assert entry is not None
    assert (entry.place, entry.of, entry.doubts) == (2, 2, {"entropy": 0.5})
    assert back.score_between(0.5) == pytest.approx((1 / 6 + 0.5) / 2)
    path.write_bytes(b"no parquet")
    with pytest.raises(StorageError, match="order of tasks"):
        read_order(path)


def test_orders_are_joined_by_task() -> None:
    both = order([3, 8], [0.2, 0.8], [0.4, 0.1]).joined(order([5], [0.5], [0.2], key="other"))
    assert (both.key, both.task_id.tolist(), both.score.tolist()) == ("k", [3, 5, 8], [0.2, 0.5, 0.8])
    assert both.without([5]).task_id.tolist() == [3, 8]


def test_the_backend_sees_a_replaced_order(tmp_path: Path) -> None:
    cache, path = OrderCache(tmp_path), ProjectPaths(tmp_path, 1).order("v")
    assert cache.of(1, "v") is None
    write_order(path, order([3], [0.5], [0.4]))
    first = cache.of(1, "v")
    assert first is not None
    assert cache.of(1, "v") is first
    write_order(path, order([3, 4], [0.5, 0.75], [0.4, 0.2]))
    os.utime(path, ns=(1, 1))
    second = cache.of(1, "v")
    assert second is not None
    assert len(second) == 2
    assert cache.nbytes > 0


def test_features_are_kept_by_task_the_newest_counts(tmp_path: Path) -> None:
    there, none = read_features(tmp_path / "f", [1, 2])
    assert (there.tolist(), none.shape) == ([False, False], (2, 0))
    add_features(tmp_path / "f", [1, 2], ["a", "b"], np.array([[1, 2], [3, 4]], np.float32))
    add_features(tmp_path / "f", [2], ["c"], np.array([[5, 1e9]], np.float32))
    add_features(tmp_path / "f", [], [], np.zeros((0, 2), np.float32))
    assert known_features(tmp_path / "f") == {1: "a", 2: "c"}
    there, found = read_features(tmp_path / "f", [2, 7, 1])
    assert there.tolist() == [True, False, True]
    assert found.tolist() == [[5.0, 65504.0], [0.0, 0.0], [1.0, 2.0]]
    next((tmp_path / "f").iterdir()).write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be read"):
        known_features(tmp_path / "f")
