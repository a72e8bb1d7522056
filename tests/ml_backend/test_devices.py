"""What the environment says about threads."""

from __future__ import annotations

import pytest

from ml_backend.devices import omp_threads


@pytest.mark.parametrize(
    ("said", "threads"), [("", 0), ("4", 4), (" 4 ", 4), ("4,2", 4), ("many", 0), (",", 0)]
)
def test_threads_of_the_first_level_count(monkeypatch: pytest.MonkeyPatch, said: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert omp_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert omp_threads() == 0
