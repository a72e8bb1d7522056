"""The log of verdicts."""

from __future__ import annotations

import numpy as np

from clustering.answers import AnswerLog, final_verdicts


def test_latest_verdict_counts() -> None:
    log = AnswerLog(
        np.array([3, 1, 3]), np.array([1, 1, 0], np.float32), np.full(3, -1), np.zeros(3, np.int8), np.ones(3)
    )
    items, yes = final_verdicts(log)
    assert items.tolist() == [1, 3]
    assert yes.tolist() == [1.0, 0.0]
