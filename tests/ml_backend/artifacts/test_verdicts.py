"""Verdicts: what is written is read, digests follow what shows, a replaced file is seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import (
    Verdict,
    VerdictCache,
    VerdictPages,
    VerdictTable,
    read_verdicts,
    write_verdicts,
)
from ml_backend.errors import StorageError

NAN = float("nan")
ROWS = [
    Verdict("t2-b", "nut", 1, False, 0, 3, 0.91, 0.99, 0.95, "original"),
    Verdict("t1-a", "washer", 1, True, -1, -1, NAN, NAN, NAN, "verdict"),
    Verdict("t3-c", "nut", -1, False, 1, 8, 0.0, 0.2, 0.95, "original"),
]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = write_verdicts(tmp_path, ROWS)
    found = read_verdicts(tmp_path)
    assert [str(found[row.key]) for row in ROWS] == [str(row) for row in ROWS]  # NaN != NaN
    assert list(found) == [row.key for row in ROWS]
    assert found.digest == written.digest
    assert found.get("t9-x") is None
    # plain numbers: they go into JSON
    assert [type(x) for x in dataclasses.astuple(found["t2-b"])] == [
        str, str, int, bool, int, int, float, float, float, str,
    ]  # fmt: skip
    assert found["t2-b"].meta(4)["groundswell"]["purity_lower"] == 0.91


@pytest.mark.parametrize("rows", [[], ROWS])
def test_no_file_and_no_rows_are_empty(tmp_path: Path, rows: list[Verdict]) -> None:
    assert len(read_verdicts(tmp_path / "nothing")) == 0
    write_verdicts(tmp_path, rows)
    assert len(read_verdicts(tmp_path)) == len(rows)


def test_pages_hold_the_verdicts_of_their_tasks(tmp_path: Path) -> None:
    assert VerdictPages(tmp_path).tasks(or_test="original") == []
    assert len(VerdictPages(tmp_path).of([1, 2])) == 0
    more = [
        dataclasses.replace(ROWS[0], key=f"t{n}-{end}", lower=n / 100) for n in (12, 2, 21) for end in "xy"
    ]
    write_verdicts(tmp_path, [*ROWS, *more])
    pages = VerdictPages(tmp_path)
    assert pages.tasks(or_test="") == [1, 2, 12, 21]  # on task 3 all was rejected
    assert pages.tasks(or_test="original") == [1, 2, 3, 12, 21]
    found = pages.of([2, 3, 99])
    assert list(found) == ["t2-b", "t3-c", "t2-x", "t2-y"]
    assert [str(found[key]) for key in found] == [str(read_verdicts(tmp_path)[key]) for key in found]
    (tmp_path / "verdicts.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StorageError, match="verdicts"):
        VerdictPages(tmp_path)


def test_the_digest_follows_what_shows_and_not_the_order() -> None:
    digest = VerdictTable(ROWS).digest
    assert VerdictTable(ROWS[::-1]).digest == digest
    assert VerdictTable(ROWS[:2]).digest != digest
    for change in ({"verdict": -1}, {"verified": True}, {"cluster": 4}, {"lower": 0.9}, {"key": "t2-c"}):
        assert VerdictTable([dataclasses.replace(ROWS[0], **change), *ROWS[1:]]).digest != digest, change
    shown_alike = dataclasses.replace(ROWS[0], lower=0.91000001)
    assert VerdictTable([shown_alike, *ROWS[1:]]).digest == digest


def test_the_cache_sees_a_replaced_file_and_a_damaged_one(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    folder = ProjectPaths(tmp_path, 3).round(1)
    assert len(cache.of(3, 1)) == 0
    write_verdicts(folder, ROWS)
    first = cache.of(3, 1)
    assert len(first) == 3
    assert cache.of(3, 1) is first
    write_verdicts(folder, ROWS[:1])
    assert list(cache.of(3, 1)) == ["t2-b"]
    (folder / "verdicts.parquet").write_bytes(b"no parquet")
    with pytest.raises(StorageError, match=r"verdicts\.parquet"):
        cache.of(3, 1)


def test_the_cache_is_bounded_by_bytes(tmp_path: Path) -> None:
    rows = [Verdict(f"t{i}-0011aabb", "cell", 1, False, 0, 5, 0.9, 1.0, 0.95, "exact") for i in range(50)]
    for number in range(1, 6):
        size = write_verdicts(ProjectPaths(tmp_path, 3).round(number), rows).nbytes
    cache = VerdictCache(tmp_path, max_bytes=2 * size)
    for number in range(1, 6):
        assert len(cache.of(3, number)) == 50
        assert cache.nbytes <= 2 * size
    assert cache.of(3, 5) is cache.of(3, 5)
    assert cache.nbytes > size
