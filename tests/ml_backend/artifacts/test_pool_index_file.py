"""One index of a pool: it follows the parts, is never trusted blindly, and saves opening them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ml_backend.artifacts import pool_index, pool_index_file
from ml_backend.artifacts.pool_index import PoolIndex, newest_texts, read_index
from ml_backend.artifacts.pool_index_file import BEHIND, parts_behind, read_index_file, write_index_file
from ml_backend.artifacts.pool_parts import part_names
from ml_backend.artifacts.pool_reader import Pools
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.artifacts.pools import read_doubts, read_tasks
from ml_backend.errors import LeaseLost, StorageError
from ml_backend.instances import Instances
from tests.ml_backend.artifacts.test_pools import LABELS, some

FILE = "index.parquet"


def _write(folder: Path, tasks: range, turn: str = "a", **options: Any) -> None:
    """One part a task."""
    with PoolWriter(folder, LABELS, embedding_dim=4, tasks_per_part=1, **options) as writer:
        for task in tasks:
            found = some(task % 2, seed=task) if task % 5 else Instances.empty(4)
            found = Instances(
                found.label, found.box_xyxy, found.rle, found.score, found.quality, found.embedding,
                doubts={"calibration": task / 100} if task % 3 else {},
            )  # fmt: skip
            error = "" if task % 5 else f"broken in {turn}"
            writer.add(task, found, hw=(6, task), image_sha=f"{turn}{task}", score=task / 99, error=error)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the task parts that are opened."""
    names: list[str] = []
    plain = pool_index.read_columns

    def counted(path: Path, columns: Any) -> Any:
        names.append(path.name)
        return plain(path, columns)

    monkeypatch.setattr(pool_index, "read_columns", counted)
    monkeypatch.setattr(pool_index_file, "read_columns", counted)
    return names


def _everything(folder: Path) -> tuple[Any, ...]:
    index, tasks = read_index(folder), read_tasks(folder)
    return (
        index.parts, index.task_id.tolist(), index.part.tolist(), index.hw.tolist(), index.score.tolist(),
        index.n_instances.tolist(), dict(index.error), tasks.image_sha.tolist(), tasks.error.tolist(),
        read_doubts(folder, index),
    )  # fmt: skip


def _without(folder: Path, tmp_path: Path) -> tuple[Any, ...]:
    """What the parts alone say."""
    plain = tmp_path / "plain"
    shutil.rmtree(plain, ignore_errors=True)
    shutil.copytree(folder, plain)
    (plain / FILE).unlink(missing_ok=True)
    return _everything(plain)


def test_it_says_what_the_parts_say_and_opens_few(tmp_path: Path, opened: list[str]) -> None:
    folder = tmp_path / "pool"
    _write(folder, range(BEHIND - 1))
    assert not (folder / FILE).exists()
    _write(folder, range(20, BEHIND + 30), "b")  # tasks 20 … 30 anew
    assert read_index(folder, PoolIndex.empty()).parts == read_index(folder).parts
    assert parts_behind(folder) == (BEHIND - 1 + BEHIND + 10) % BEHIND
    expected = _without(folder, tmp_path)
    assert expected[7][19:22] == ["a19", "b20", "b21"]
    assert expected[9][20] == {"calibration": 0.2}
    opened.clear()
    assert _everything(folder) == expected
    assert len(opened) == 4 * parts_behind(folder) > 0  # two indexes, digests of images, doubts
    write_index_file(folder)
    opened.clear()
    assert (_everything(folder), opened) == (expected, [])


def test_a_writer_keeps_few_parts_behind(tmp_path: Path) -> None:
    for task in range(BEHIND + 3):  # as looks do: a new writer for each
        _write(tmp_path, range(task, task + 1))
        assert parts_behind(tmp_path) < BEHIND
    assert len(read_index(tmp_path)) == BEHIND + 3


def _cut(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2])


def _turned(folder: Path) -> None:
    """One bit of the numbers of a column is another."""
    column = pq.read_metadata(folder / FILE).row_group(0).column(4)
    assert column.path_in_schema == "score"
    assert column.dictionary_page_offset is not None
    data = bytearray((folder / FILE).read_bytes())
    data[column.data_page_offset - 3] ^= 1  # the last of the distinct scores, which stand before the pages
    (folder / FILE).write_bytes(data)


def _other_release(folder: Path) -> None:
    table = pq.read_table(folder / FILE)
    table = table.set_column(
        0, "task_id", table["task_id"].combine_chunks().take(list(range(len(table)))[::-1])
    )
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"form": b"0"}), folder / FILE)


def _of_a_part_that_is_gone(folder: Path) -> None:
    part = sorted(os.listdir(folder / "tasks.parquet"))[3]
    (folder / "tasks.parquet" / part).unlink()


def _without_a_column(folder: Path) -> None:
    table = pq.read_table(folder / FILE)
    pq.write_table(table.drop_columns(["score"]), folder / FILE)


def _of_another_type(folder: Path) -> None:
    """One bit of the schema is another: the texts of a column count as bytes."""
    data = bytearray((folder / FILE).read_bytes())
    at = data.rindex(b"image_sha%\x00L\x1c") + len(b"image_sha%\x00L")
    data[at] ^= 1 << 3
    (folder / FILE).write_bytes(data)


def _of_no_parts(folder: Path) -> None:
    table = pq.read_table(folder / FILE)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"parts": b"7"}), folder / FILE)


@pytest.mark.parametrize(
    "harm",
    [
        _cut,
        _turned,
        _other_release,
        _of_a_part_that_is_gone,
        _without_a_column,
        _of_another_type,
        _of_no_parts,
    ],
)
def test_one_that_does_not_count_is_found_and_replaced(
    tmp_path: Path, harm: Callable[[Path], None], opened: list[str]
) -> None:
    folder = tmp_path / "pool"
    _write(folder, range(BEHIND))
    assert read_index_file(folder, ("task_id", "score")) is not None
    harm(folder)
    assert read_index_file(folder, ("task_id", "score")) is None
    expected = _without(folder, tmp_path)
    assert _everything(folder) == expected
    _write(folder, range(50, 51))  # the next writer repairs it
    opened.clear()
    assert len(read_index(folder)) == len(expected[1]) + 1
    assert opened == []


def test_a_part_that_sorts_before_covered_ones_counts_as_older(tmp_path: Path) -> None:
    """Two writers at once: their parts may have the same number."""
    folder = tmp_path / "pool"
    _write(folder, range(BEHIND))
    parts = sorted(os.listdir(folder / "tasks.parquet"))
    for kind in ("tasks.parquet", "pool.parquet"):
        source = folder / kind / parts[7]
        if source.exists():
            shutil.copy(source, folder / kind / "part-000000-00000000.parquet")
    expected = _without(folder, tmp_path)
    assert expected[2][7] == 8
    assert _everything(folder) == expected
    write_index_file(folder)
    assert _everything(folder) == expected


def test_a_writer_may_be_at_work_while_the_index_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, range(3))
    plain = pool_index.read_index_file

    def meanwhile(folder: Path, columns: Any) -> Any:
        monkeypatch.undo()
        _write(tmp_path, range(3, BEHIND))
        return plain(folder, columns)

    monkeypatch.setattr(pool_index, "read_index_file", meanwhile)
    np.testing.assert_array_equal(read_index(tmp_path).task_id, np.arange(BEHIND))
    assert (tmp_path / FILE).exists()


def test_texts_are_those_of_the_parts_that_the_reader_knows(tmp_path: Path) -> None:
    """Index and pool have grown since, and tasks have newer parts."""
    _write(tmp_path, range(BEHIND))
    before = read_index(tmp_path)
    expected = [f"a{task}" for task in range(BEHIND)]
    assert newest_texts(tmp_path, before, "image_sha").tolist() == expected
    _write(tmp_path, range(5, 5 + BEHIND), "b")
    assert parts_behind(tmp_path) == 0
    assert newest_texts(tmp_path, before, "image_sha").tolist() == expected


def test_a_pool_may_go_while_its_index_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of another machine loses an old pool file by file."""
    _write(tmp_path, range(BEHIND + 1))
    plain = pool_index.read_index_file

    def meanwhile(folder: Path, columns: Any) -> Any:
        found = plain(folder, columns)
        (folder / "tasks.parquet" / part_names(folder)[0]).unlink()
        return found

    monkeypatch.setattr(pool_index, "read_index_file", meanwhile)
    with pytest.raises(StorageError, match="was deleted"):
        read_index(tmp_path)


def test_a_pool_may_go_while_pools_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pools(tmp_path).versions(1) == []
    for turn, name in enumerate(("v1", "v2", ".gone-v0", "v3")):
        folder = tmp_path / "projects" / "1" / "pools" / name
        folder.mkdir(parents=True)
        os.utime(folder, (turn, turn))
    assert Pools(tmp_path).versions(1) == ["v3", "v2", "v1"]
    plain = os.scandir

    def meanwhile(path: Path) -> Any:
        entries = sorted(plain(path), key=lambda entry: entry.name)
        (path / "v2").rmdir()
        return entries

    monkeypatch.setattr("ml_backend.artifacts.pool_reader.os.scandir", meanwhile)
    assert Pools(tmp_path).versions(1) == ["v3", "v1"]


def test_a_writer_that_lost_its_lease_writes_no_index(tmp_path: Path) -> None:
    """It is killed, or loses its lease, between the part and the index: the part counts all the same."""

    def guard(target: Path | None = None, staged: Path | None = None) -> Any:
        if target is not None and target.name == FILE:
            raise LeaseLost("another worker has taken over")
        return pool_index_file.unguarded()

    with pytest.raises(LeaseLost):
        _write(tmp_path, range(BEHIND), guard=guard)
    assert not (tmp_path / FILE).exists()
    assert len(read_index(tmp_path)) == BEHIND
    _write(tmp_path, range(BEHIND, BEHIND + 1))
    assert parts_behind(tmp_path) == 0
    np.testing.assert_array_equal(read_index(tmp_path).task_id, np.arange(BEHIND + 1))
