"""Answers of played workers, for the tests of the crowd model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.crowd import Answers

__all__ = ["answers_of", "played"]


def played(
    *,
    items: int = 300,
    skills: tuple[tuple[float, float], ...] = ((0.95, 0.9), (0.9, 0.92), (0.85, 0.8)),
    good_share: float = 0.7,
    seed: int = 0,
) -> tuple[Answers, npt.NDArray[np.bool_]]:
    """Every worker (sensitivity, specificity) answers every item; the truth."""
    rng = np.random.default_rng(seed)
    good = rng.random(items) < good_share
    w = len(skills)
    chance = np.array([np.where(good, se, 1 - sp) for se, sp in skills])
    yes = (rng.random((w, items)) < chance).astype(float)
    return (
        Answers(
            np.tile(np.arange(items), w),
            np.repeat(np.arange(w), items),
            yes.ravel(),
            rng.gamma(8.0, 0.2, w * items) + 0.7,
        ),
        good,
    )


def answers_of(rows: list[tuple[int, int, float]], seconds: float = 2.0) -> Answers:
    table = np.array(rows, float).reshape(-1, 3)
    return Answers(
        table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2], np.full(len(table), seconds)
    )
