"""On a node: folders are checked and kept within bounds, other code is refused. Without Ray."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from ml_backend.errors import ExecutorError, ModelError, StorageError
from sync.executor.base import Job, Node, function_at, path_of
from sync.executor.folders import FolderCache, digest_of, pack
from sync.executor.local import LocalExecutor
from sync.executor.ray_node import Call, code_digest, run_on_node
from tests.sync.executor.functions import read_word, refuse


def _model(folder: Path, size: int, letter: str) -> bytes:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(letter.encode() * size)
    return pack(folder)


def test_a_folder_travels_as_bytes_that_its_digest_names(tmp_path: Path) -> None:
    packed = _model(tmp_path / "model", 100, "a")
    os.utime(tmp_path / "model" / "deep" / "weights", (1, 1))
    assert pack(tmp_path / "model") == packed, "times of files do not count"
    cache = FolderCache(tmp_path / "cache", 10_000)
    (tmp_path / "cache").mkdir()
    found = cache.get(digest_of(packed), lambda: packed)
    assert (found / "deep" / "weights").read_bytes() == b"a" * 100
    assert cache.get(digest_of(packed), lambda: pytest.fail("it is there already")) == found
    with pytest.raises(StorageError, match="not those of this folder"):
        cache.get("0" * 64, lambda: packed)
    with pytest.raises(StorageError, match="nothing in"):
        pack(tmp_path / "empty")


def test_two_processes_may_unpack_the_same_folder_at_once(tmp_path: Path) -> None:
    packed = _model(tmp_path / "model", 100, "a")
    root = tmp_path / "cache"
    root.mkdir()

    def fetch() -> bytes:  # while the bytes are on their way, another process gets there first
        FolderCache(root, 10_000).get(digest_of(packed), lambda: packed)
        return packed

    found = FolderCache(root, 10_000).get(digest_of(packed), fetch)
    assert (found / "deep" / "weights").read_bytes() == b"a" * 100
    assert [path.name for path in root.iterdir()] == [digest_of(packed)]


def test_folders_used_longest_ago_make_room(tmp_path: Path) -> None:
    packed = [_model(tmp_path / letter, 1000, letter) for letter in "abc"]
    root = tmp_path / "cache"
    root.mkdir()
    cache = FolderCache(root, 2500)
    first, second = (cache.get(digest_of(data), lambda data=data: data) for data in packed[:2])
    long_ago = time.time() - 1000
    os.utime(first, (long_ago + 10, long_ago + 10))
    os.utime(second, (long_ago, long_ago))
    third = cache.get(digest_of(packed[2]), lambda: packed[2])
    assert first.exists()
    assert third.exists()
    assert not second.exists()


def test_what_a_killed_process_was_unpacking_takes_no_room(tmp_path: Path) -> None:
    packed = [_model(tmp_path / letter, 1000, letter) for letter in "ab"]
    root = tmp_path / "cache"
    abandoned, begun = root / f".{'0' * 64}.1.ab", root / f".{'1' * 64}.2.cd"
    long_ago = time.time() - 100_000
    for folder in (abandoned, begun):
        folder.mkdir(parents=True)
    (abandoned / "weights").write_bytes(b"x" * 3000)
    os.utime(abandoned, (long_ago, long_ago))
    cache = FolderCache(root, 2500)
    first = cache.get(digest_of(packed[0]), lambda: packed[0])
    os.utime(first, (long_ago, long_ago))
    cache.get(digest_of(packed[1]), lambda: packed[1])
    assert first.exists()
    assert not abandoned.exists()
    (begun / "weights").write_bytes(b"x" * 3000)
    minutes_ago = time.time() - 600
    os.utime(begun, (minutes_ago, minutes_ago))
    os.utime(first, (long_ago, long_ago))
    shutil.rmtree(root / digest_of(packed[1]))
    FolderCache(root, 1).get(digest_of(packed[1]), lambda: packed[1])
    assert begun.exists(), "another process is at it"
    assert not first.exists()


def test_a_node_with_another_release_refuses(tmp_path: Path) -> None:
    call = Call(path_of(refuse), None, "job", {}, 0, code_digest())
    assert run_on_node(call, {}, 7) == 7
    other = Call(path_of(refuse), None, "job", {}, 0, "0" * 64)
    with pytest.raises(ExecutorError, match="another release of Groundswell"):
        run_on_node(other, {}, 7)


def test_only_functions_of_modules_travel() -> None:
    assert function_at(path_of(read_word)) is read_word
    with pytest.raises(ValueError, match="no function of a module"):
        path_of(lambda shared, item, node: item)


def test_here_each_input_waits_for_the_check(tmp_path: Path) -> None:
    seen: list[int] = []

    def check() -> None:
        seen.append(len(seen))
        if len(seen) == 3:
            raise ModelError("enough")

    results = LocalExecutor().map(Job(refuse, None), range(10), check=check)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ModelError, match="enough"):
        next(results)
    (tmp_path / "one").write_text("one")
    node = Node({"words": tmp_path}, {})
    assert [read_word(2, "one", node)[:2] for _ in range(2)] == [("oneone", 1)] * 2
