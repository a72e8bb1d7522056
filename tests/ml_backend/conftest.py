"""The app of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.learners.registry import LEARNERS
from tests.ml_backend.helpers import ThresholdLearner
from tests.ml_backend.served import Backend


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setitem(LEARNERS, "threshold", "tests.ml_backend.helpers:ThresholdLearner")
    ThresholdLearner.loads = 0
    yield Backend(tmp_path)
    ThresholdLearner.hook = staticmethod(lambda: None)
