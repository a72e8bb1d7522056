"""How many questions the certified policy may spend on what.

The plan follows from the size of the pool and is fixed before the first answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clustering.answers import AnswerLog
from clustering.arrays import Ints
from clustering.evidence import Noise

__all__ = ["BATCHES", "Attempt", "Plan", "make_plan"]

BATCHES = 3
"""Search batches before each calibration; the verifier is refitted between them."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to certify a set: what it may spend, and its part of the error.

    Attributes
    ----------
    search : questions of each search batch
    calibrate : most questions of the acceptance test
    alpha : probability that this attempt certifies a set that does not keep the promise
    """

    search: tuple[int, ...]
    calibrate: int
    alpha: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool of a given size gets.

    Attributes
    ----------
    attempts : in their order
    audit : questions of the final audit
    min_set : least number of members of a set that is worth certifying
    verify_all : the pool is so small that each instance is asked about instead
    """

    attempts: tuple[Attempt, ...]
    audit: int
    min_set: int
    verify_all: bool

    @property
    def after_all(self) -> int:
        """Number of the phase after the last attempt: its verifier knows all answers but the audit's."""
        return self.phase(len(self.attempts), 0)

    @staticmethod
    def phase(attempt: int, batch: int) -> int:
        """Number of a phase: batches 0..BATCHES-1 search, BATCHES calibrates."""
        return attempt * (BATCHES + 1) + batch

    @staticmethod
    def tag(phase: int) -> int:
        """What the questions of a phase carry as their cluster (see ``AnswerLog.cluster``)."""
        return -2 - phase

    @staticmethod
    def phases_of(log: AnswerLog) -> Ints:
        """(m,) phase of each answer; -1 for answers that no phase asked for, such as those carried over."""
        return np.maximum(-2 - log.cluster, -1)


def make_plan(n: int, *, purity: float, delta: float, noise: Noise, effort: float, audit: int | None) -> Plan:
    """Plan for a pool of ``n`` >= 1 instances.

    The first attempt and the audit take at most about ``52 · effort · n^(1/4)`` questions, a further attempt
    two thirds of that. This grows more slowly than the square root of the pool. A test needs a fixed number
    of answers for a given margin above the promise, whatever the pool's size; a larger pool gets somewhat
    more, because a narrower margin gains more masks there. Below 256 masks the number is less, ``13 · √n``:
    no certificate is worth asking about most of the pool. Strict promises and noisy answers need more, in
    proportion to the variance of one answer divided by the squared margin that it has to resolve.

    Attempts and the audit get fixed parts of that number. Calibration questions are a limit: ``nest_sets``
    plans fewer where they are expected to bring too little.
    """
    base = effort * min(52.0 * n**0.25, 13.0 * n**0.5)
    # variance over squared margin, relative to exact answers and a promise of 0.85
    observed = float(noise.observed(purity))
    margin = (1.0 - purity) * (noise.sensitivity + noise.specificity - 1.0)
    strict = observed * (1.0 - observed) / margin**2 / (0.85 / 0.15)
    search = max(30, round(0.15 * base * np.clip(strict, 1.0, 4.0) ** 0.5))
    calibrate = max(60, round(0.6 * base * np.clip(strict, 0.5, 6.0)))
    again = max(20, search // 2)
    return Plan(
        attempts=(
            Attempt(_batches(search), calibrate, 0.7 * delta),
            Attempt(_batches(again), calibrate, 0.2 * delta),
            Attempt(_batches(again), calibrate, 0.1 * delta),
        ),
        audit=round(0.15 * base) if audit is None else audit,
        min_set=30,
        # an attempt would ask about most of such a pool anyway
        verify_all=n <= 100,
    )


def _batches(total: int) -> tuple[int, ...]:
    later = total // 4
    return (total - later * (BATCHES - 1), *(later,) * (BATCHES - 1))
