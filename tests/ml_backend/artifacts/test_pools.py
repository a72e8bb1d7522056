"""Pools on disk: round trip, restart, overwriting, columns."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset

from ml_backend.artifacts import pool_index
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex, read_index
from ml_backend.artifacts.pool_parts import has_edges
from ml_backend.artifacts.pool_reader import PoolReader, Pools
from ml_backend.artifacts.pool_tables import instance_key, joined, task_of_key, tasks_of_keys
from ml_backend.artifacts.pool_writer import PoolWriter, write_pool
from ml_backend.artifacts.pools import done_tasks, read_pool, read_replaced, read_tasks
from ml_backend.errors import StorageError
from ml_backend.instances import Instances
from ml_backend.masks.edges import EDGES, edge_statistics
from ml_backend.masks.rle import empty_rle, encode_mask, rle_box

LABELS = ("cat", "dog")


def some(n: int, *, seed: int = 0, dim: int = 4) -> Instances:
    rng = np.random.default_rng(seed)
    rles = [encode_mask(rng.random((6, 8)) < 0.5) for _ in range(n)]
    return Instances(
        rng.integers(0, 2, n),
        np.array([rle_box(r) for r in rles], np.float32).reshape(-1, 4),
        rles,
        rng.random(n).astype(np.float32),
        rng.random(n).astype(np.float32),
        rng.standard_normal((n, dim)).astype(np.float32),
    )


def test_round_trip_of_all_columns(tmp_path: Path) -> None:
    a, b = some(3), some(2, seed=1)
    rows = [
        (7, a, {"hw": (6, 8), "image_sha": "aa", "score": 0.25}),
        (9, Instances.empty(4), {}),
        (11, b, {"hw": (6, 8)}),
    ]
    write_pool(tmp_path, LABELS, rows, embedding_dim=4, tasks_per_part=2)
    pool = read_pool(tmp_path)
    assert pool.task_id.tolist() == [7, 7, 7, 11, 11]
    assert list(pool.label) == [LABELS[i] for i in (*a.label, *b.label)]
    assert [pool.rle(i) for i in range(5)] == [*a.rle, *b.rle]
    np.testing.assert_array_equal(pool.embedding, np.concatenate([a.embedding, b.embedding]))
    np.testing.assert_array_equal(pool.box_xyxy, np.concatenate([a.box_xyxy, b.box_xyxy]))
    np.testing.assert_array_equal(pool.score, np.concatenate([a.score, b.score]))
    assert pool.key[0] == instance_key(7, pool.label[0], str(a.rle[0]["counts"]))
    assert [task_of_key(k) for k in pool.key] == pool.task_id.tolist()
    assert tasks_of_keys(pa.chunked_array([pool.key[:2], pool.key[2:]])).tolist() == pool.task_id.tolist()
    tasks = read_tasks(tmp_path)
    assert tasks.task_id.tolist() == [7, 9, 11]
    assert tasks.n_instances.tolist() == [3, 0, 2]
    assert tasks.score[0] == pytest.approx(0.25)
    assert tasks.hw.tolist() == [[6, 8], [0, 0], [6, 8]]
    back = pool.take(pool.task_id == 7).instances(LABELS)
    np.testing.assert_array_equal(back.label, a.label)
    assert list(back.rle) == list(a.rle)
    assert len(pool.instances(["dog"])) == int((pool.label == "dog").sum())


@pytest.mark.parametrize("bad", ["", "7-0011aabb", "t-0011aabb", "tt7-0011aabb", "t7", "t7-", "tx-0", None])
def test_what_is_no_instance_key_names_no_task(bad: str | None) -> None:
    with pytest.raises(ValueError, match="not an instance key"):
        tasks_of_keys(pa.chunked_array([["t7-0011aabb", bad]], pa.string()))
    if bad is not None:
        with pytest.raises(ValueError, match=r"not an instance key|invalid literal"):
            task_of_key(bad)


def test_a_pool_is_an_arrow_dataset(tmp_path: Path) -> None:
    rows = [(task, some(task, seed=task), {"hw": (6, 8)}) for task in (3, 0, 2, 4)]
    write_pool(tmp_path, LABELS, rows, embedding_dim=4, tasks_per_part=2)
    masks = dataset.dataset(tmp_path / "pool.parquet", format="parquet")
    sure = masks.to_table(columns=["key", "label"], filter=dataset.field("score") > 0.5)
    pool = read_pool(tmp_path)
    assert sure["key"].to_pylist() == pool.key[pool.score > 0.5].tolist()
    assert sure["label"].to_pylist() == pool.label[pool.score > 0.5].tolist()
    assert masks.count_rows() == 9
    assert dataset.dataset(tmp_path / "tasks.parquet", format="parquet").count_rows() == 4


def test_columns_and_tasks_are_read_apart(tmp_path: Path) -> None:
    write_pool(
        tmp_path, LABELS, [(t, some(2, seed=t), {}) for t in range(6)], embedding_dim=4, tasks_per_part=2
    )
    pool = read_pool(tmp_path, columns=["key", "score"], task_ids=[1, 4, 77])
    assert pool.task_id.tolist() == [1, 1, 4, 4]
    assert pool.embedding.shape == (4, 0)
    assert len(pool.counts) == 0
    with pytest.raises(ValueError, match="unknown columns"):
        read_pool(tmp_path, columns=["colour"])


def test_an_absent_pool_is_empty(tmp_path: Path) -> None:
    assert len(read_pool(tmp_path / "none")) == 0
    assert len(read_tasks(tmp_path / "none")) == 0
    assert done_tasks(tmp_path / "none") == set()
    assert len(read_pool(tmp_path / "none").instances(LABELS)) == 0


def test_a_part_without_its_commit_mark_does_not_count(tmp_path: Path) -> None:
    with PoolWriter(tmp_path, LABELS, embedding_dim=4) as writer:
        writer.add(1, some(2))
    with PoolWriter(tmp_path, LABELS, embedding_dim=4) as writer:
        writer.add(2, some(3))
    killed = sorted((tmp_path / "tasks.parquet").iterdir())[-1]
    killed.unlink()  # as if the writer had died between its two renames
    assert done_tasks(tmp_path) == {1}
    assert read_pool(tmp_path).task_id.tolist() == [1, 1]
    with PoolWriter(tmp_path, LABELS, embedding_dim=4) as writer:
        writer.add(2, some(3))
    assert read_pool(tmp_path).task_id.tolist() == [1, 1, 2, 2, 2]


def test_the_newest_part_of_a_task_counts(tmp_path: Path) -> None:
    write_pool(tmp_path, LABELS, [(1, some(3), {}), (2, some(1, seed=5), {})], embedding_dim=4)
    write_pool(tmp_path, LABELS, [(1, Instances.empty(4), {"error": "not an image"})], embedding_dim=4)
    assert read_pool(tmp_path).task_id.tolist() == [2]
    tasks = read_tasks(tmp_path)
    assert dict(zip(tasks.task_id.tolist(), tasks.error, strict=True)) == {1: "not an image", 2: ""}


def test_what_was_added_survives_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with PoolWriter(tmp_path, LABELS, embedding_dim=4) as writer:
            writer.add(1, some(2))
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        interrupted()
    assert done_tasks(tmp_path) == {1}


def test_wrong_width_and_damaged_file(tmp_path: Path) -> None:
    with PoolWriter(tmp_path, LABELS, embedding_dim=4) as writer:
        with pytest.raises(ValueError, match="4"):
            writer.add(1, some(2, dim=3))
        writer.add(1, some(2))
    part = next((tmp_path / "pool.parquet").iterdir())
    part.write_bytes(b"not parquet")
    with pytest.raises(StorageError, match="cannot be read"):
        read_pool(tmp_path)


def test_a_reader_follows_new_parts(tmp_path: Path) -> None:
    reader = PoolReader(tmp_path)
    assert reader.entry(1) is None
    assert reader.read([1]) == {}
    first = some(3)
    write_pool(
        tmp_path,
        LABELS,
        [(1, first, {"hw": (6, 8), "score": 0.5}), (2, Instances.empty(4), {})],
        embedding_dim=4,
    )
    found = reader.read([1, 2, 9])
    assert sorted(found) == [1, 2]
    assert len(found[2]) == 0
    assert list(found[1].instances(LABELS).rle) == list(first.rle)
    assert reader.read([1])[1].key.tolist() == read_pool(tmp_path, columns=["key"], task_ids=[1]).key.tolist()
    entry = reader.entry(1)
    assert entry is not None
    assert (entry.hw, entry.score, entry.error) == ((6, 8), 0.5, "")
    for number in range(20):  # more parts than stay in memory; the newest of task 1 counts
        write_pool(
            tmp_path, LABELS, [(1, some(number % 4), {}), (100 + number, some(1), {})], embedding_dim=4
        )
        assert len(reader.read([1])[1]) == number % 4
    assert sorted(reader.read(range(100, 120))) == list(range(100, 120))


def test_pools_without_embeddings(tmp_path: Path) -> None:
    write_pool(tmp_path, LABELS, [(1, some(2, dim=0), {})], embedding_dim=0)
    assert read_pool(tmp_path).embedding.shape == (2, 0)


def test_edges_are_kept_with_the_instances(tmp_path: Path) -> None:
    a, b = some(3), some(2, seed=1)
    picture = np.random.default_rng(5).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    for task, instances in ((7, a), (9, Instances.empty(4)), (11, b)):
        write_pool(tmp_path, LABELS, [(task, instances, {"hw": (6, 8), "image": picture})], embedding_dim=4)
    expected = np.concatenate([edge_statistics(picture, a.rle), edge_statistics(picture, b.rle)])
    assert expected.any()
    pool = read_pool(tmp_path)
    np.testing.assert_allclose(pool.edges, expected, atol=1e-6)
    np.testing.assert_allclose(read_pool(tmp_path, task_ids=[11]).edges, expected[3:], atol=1e-6)
    replaced = read_replaced(tmp_path, {str(pool.key[4])})
    np.testing.assert_allclose(joined(pool.take(np.array([0])), replaced).edges, expected[[0, 4]], atol=1e-6)
    not_asked = read_pool(tmp_path, columns=["key"]).edges
    assert (not_asked.shape, not_asked.any()) == ((5, len(EDGES)), False)
    assert read_pool(tmp_path / "none").edges.shape == (0, len(EDGES))


def test_a_pool_of_an_earlier_release_gets_no_edges(tmp_path: Path) -> None:
    picture = np.random.default_rng(5).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    write_pool(tmp_path, LABELS, [(3, Instances.empty(4), {"image": picture})], embedding_dim=4)
    assert has_edges(tmp_path)
    write_pool(tmp_path, LABELS, [(1, some(3), {})], embedding_dim=4)
    write_pool(tmp_path, LABELS, [(2, some(2, seed=1), {"image": picture})], embedding_dim=4)
    assert not has_edges(tmp_path)
    pool = read_pool(tmp_path)
    assert pool.task_id.tolist() == [1, 1, 1, 2, 2]
    assert (pool.edges.shape, pool.edges.any()) == ((5, len(EDGES)), False)


def test_a_deleted_pool_is_no_empty_pool(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    reader = PoolReader(folder)
    assert reader.read([1]) == {}  # not made yet
    write_pool(folder, LABELS, [(1, some(3), {})], embedding_dim=4)
    assert len(reader.read([1])[1]) == 3
    shutil.rmtree(folder)
    for _ in range(2):
        with pytest.raises(StorageError, match="was deleted"):
            reader.read([1])
        with pytest.raises(StorageError, match="was deleted"):
            reader.entry(1)
    write_pool(folder, LABELS, [(2, some(2, seed=5), {})], embedding_dim=4)
    assert sorted(reader.read([1, 2])) == [2]
    assert reader.entry(1) is None
    assert len(reader.read([2])[2]) == 2


def test_a_lost_instance_part_is_said(tmp_path: Path) -> None:
    write_pool(tmp_path, LABELS, [(1, some(3), {})], embedding_dim=4)
    next((tmp_path / "pool.parquet").iterdir()).unlink()
    reader = PoolReader(tmp_path)
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot be read"):
            reader.read([1])
    with pytest.raises(StorageError, match="cannot be read"):
        read_pool(tmp_path)


def test_each_task_part_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    plain = pool_index.read_columns

    def counted(path: Path, names: Any) -> Any:
        opened.append(path.name)
        return plain(path, names)

    monkeypatch.setattr(pool_index, "read_columns", counted)
    for task in range(12):
        write_pool(tmp_path, LABELS, [(task, some(1), {})], embedding_dim=4)
    reader = PoolReader(tmp_path)
    for task in range(12):
        assert len(reader.read([task])[task]) == 1
    assert len(opened) == 12
    write_pool(tmp_path, LABELS, [(12, some(1), {}), (3, Instances.empty(4), {})], embedding_dim=4)
    assert len(reader.read([12])[12]) == 1
    assert len(reader.read([3])[3]) == 0
    assert len(opened) == 13
    index = read_index(tmp_path)
    opened.clear()
    assert read_pool(tmp_path, task_ids=[5, 12], index=index).task_id.tolist() == [5, 12]
    assert opened == []


def test_an_index_grown_part_by_part_is_the_one_read_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grown: PoolIndex | None = None
    for number in range(15):
        tasks = rng.choice(20, 4, replace=False).tolist()
        rows = [
            (t, some(number % 3), {"score": number / 20, "hw": (6, 8 + number)})
            if (t + number) % 3
            else (t, Instances.empty(4), {"error": f"broken in {number}"})
            for t in tasks
        ]
        write_pool(tmp_path, LABELS, rows, embedding_dim=4)
        grown = read_index(tmp_path, grown)
    assert grown is not None
    assert read_index(tmp_path, grown) is grown
    whole = read_index(tmp_path)
    for name in ("task_id", "part", "hw", "score", "n_instances"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name))
    assert (grown.parts, dict(grown.error)) == (whole.parts, dict(whole.error))
    assert grown.nbytes == whole.nbytes > 0
    assert [whole.entry(t) is None for t in (-1, 99)] == [True, True]


def test_memory_of_open_pools_is_bounded_by_bytes(tmp_path: Path) -> None:
    for version in ("a", "b", "c"):
        folder = ProjectPaths(tmp_path, 3).pool(version)
        for task in range(4):
            write_pool(folder, LABELS, [(task, some(20, seed=task), {})], embedding_dim=4)
    folder = ProjectPaths(tmp_path, 3).pool("a")
    one = max(Pools(tmp_path).part(folder, part).nbytes for part in read_index(folder).parts)
    pools = Pools(tmp_path, part_bytes=3 * one)
    for version in ("a", "b", "c"):
        for task in range(4):
            assert len(pools.of(3, version).read([task])[task]) == 20
            assert 0 < pools.nbytes[1] <= 3 * one
    assert pools.versions(3) == ["c", "b", "a"]
    assert pools.versions(4) == []


def test_empty_masks_do_not_enter_a_pool(tmp_path: Path) -> None:
    found = some(4)
    hollow = [found.rle[0], empty_rle((6, 8)), found.rle[2], empty_rle((6, 8))]
    given = Instances(found.label, found.box_xyxy, hollow, found.score, found.quality, found.embedding)
    rows = [(1, given, {"hw": (6, 8)}), (2, given.take(np.array([1, 3])), {})]
    write_pool(tmp_path, LABELS, rows, embedding_dim=4)
    pool = read_pool(tmp_path)
    assert [pool.rle(i) for i in range(len(pool))] == [found.rle[0], found.rle[2]]
    np.testing.assert_array_equal(pool.score, found.score[[0, 2]])
    tasks = read_tasks(tmp_path)
    assert (tasks.task_id.tolist(), tasks.n_instances.tolist()) == ([1, 2], [2, 0])
