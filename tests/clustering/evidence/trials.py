"""How often a simulated promise may fail before a test does."""

from __future__ import annotations

from scipy import stats

__all__ = ["RUNS", "most_failures"]

RUNS = 2000


def most_failures(alpha: float, runs: int = RUNS) -> int:
    """Failures that a true error of alpha exceeds once in ten thousand experiments."""
    return int(stats.binom.ppf(1 - 1e-4, runs, alpha))
