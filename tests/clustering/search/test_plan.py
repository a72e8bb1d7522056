"""The plan of the certified policy: how many questions, and how the error is shared."""

from __future__ import annotations

import numpy as np

from clustering.evidence import Noise
from clustering.search._plan import Plan, make_plan


def test_questions_grow_slower_than_the_square_root() -> None:
    def most(n: int) -> int:
        plan = make_plan(n, purity=0.85, delta=0.05, noise=Noise(), effort=1.0, audit=None)
        return sum(sum(attempt.search) + attempt.calibrate for attempt in plan.attempts) + plan.audit

    assert most(1_000_000) / most(10_000) < 0.5 * np.sqrt(100)
    assert sum(
        attempt.alpha
        for attempt in make_plan(9, purity=0.9, delta=0.05, noise=Noise(), effort=1, audit=0).attempts
    ) <= (0.05 + 1e-12)
    assert Plan.tag(Plan.phase(1, 0)) == -6
