"""How many questions the certified policy spends on what: fixed before the first answer, from the pool's
size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clustering.evidence.answer_noise import Noise

__all__ = ["BATCHES", "Look", "Plan", "make_plan"]

BATCHES = 3
"""Search batches before each calibration; the verifier is refitted between them."""


@dataclass(frozen=True, slots=True)
class Look:
    """One attempt to certify a set: what to spend, and its part of the error.

    Attributes
    ----------
    search : questions per search batch; calibrate : most questions of the acceptance test
    alpha : probability that this look certifies a set that does not keep the promise
    """

    search: tuple[int, ...]
    calibrate: int
    alpha: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Looks in order, the size of the final audit, from which size on a set is worth certifying, and whether
    the pool is so small that each instance is asked about instead.
    """

    looks: tuple[Look, ...]
    audit: int
    min_set: int
    verify_all: bool

    @staticmethod
    def phase(look: int, batch: int) -> int:
        """Number of a phase: batches 0..BATCHES-1 search, BATCHES calibrates."""
        return look * (BATCHES + 1) + batch

    @staticmethod
    def tag(phase: int) -> int:
        """What the questions of a phase carry as their cluster (see ``AnswerLog.cluster``)."""
        return -2 - phase


def make_plan(n: int, *, purity: float, delta: float, noise: Noise, effort: float, audit: int | None) -> Plan:
    """Spend at most some ``52 · effort · n^(1/4)`` questions: slower than the square root of the pool.

    A test needs a fixed number of answers for a given margin above the promise, whatever the pool's size;
    larger pools get somewhat more because a narrower margin then gains more masks. Below 256 masks it is
    less, ``13 · √n``: no certificate is worth asking about most of the pool. The number of calibration
    questions is a limit: ``nest_sets`` plans fewer where they are expected to bring too little. Stricter
    promises and noisier answers need more of them (the variance of one answer, in units of the squared
    margin it has to resolve).
    """
    base = effort * min(52.0 * n**0.25, 13.0 * n**0.5)
    # variance of an answer in units of the squared margin, relative to exact answers and a promise of 0.85
    observed = float(noise.observed(purity))
    margin = (1.0 - purity) * (noise.sensitivity + noise.specificity - 1.0)
    strict = observed * (1.0 - observed) / margin**2 / (0.85 / 0.15)
    search = max(30, round(0.15 * base * np.clip(strict, 1.0, 4.0) ** 0.5))
    calibrate = max(60, round(0.6 * base * np.clip(strict, 0.5, 6.0)))
    again = max(20, search // 2)
    return Plan(
        looks=(
            Look(_batches(search), calibrate, 0.7 * delta),
            Look(_batches(again), calibrate, 0.2 * delta),
            Look(_batches(again), calibrate, 0.1 * delta),
        ),
        audit=round(0.15 * base) if audit is None else audit,
        min_set=30,
        # a look would ask about most of such a pool anyway
        verify_all=n <= 100,
    )


def _batches(total: int) -> tuple[int, ...]:
    later = total // 4
    return (total - later * (BATCHES - 1), *(later,) * (BATCHES - 1))
