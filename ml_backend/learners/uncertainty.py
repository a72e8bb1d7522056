"""How much of a picture is expected to be wrong, by name, from what the model found on it.

Each named doubt is a mean over the instances that people would be shown. A sum would favour crowded pictures,
the maximum would depend on a single stray box, and the mean of the few most doubtful ones saturates: on
pictures with many objects there are always some of those. The share that is wrong is what a picture costs per
object looked at and teaches per second; means follow it best (docs/figures.md).

``confidence`` is the score of a task for which no order was made: 1 = nothing is expected to be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.instances import Instances

__all__ = ["FROM_INSTANCES", "NOTHING_SHOWN", "SHOWN_FROM", "confidence", "doubts_of_tasks", "named_doubts"]

Floats = npt.NDArray[np.float64]

FROM_INSTANCES: Final = ("entropy", "margin", "quality", "placement")
SHOWN_FROM: Final = 0.3
"""Class score from which instances are shown, unless a project sets it (``push_min_score``)."""
NOTHING_SHOWN: Final = 0.5
"""Doubt about a picture on which nothing is shown: it may be empty, or everything may be missed."""


def doubts_of_tasks(
    task: npt.NDArray[np.integer],
    score: npt.NDArray[np.floating],
    quality: npt.NDArray[np.floating],
    tasks: int,
    *,
    shown_from: float = SHOWN_FROM,
) -> dict[str, Floats]:
    """Named doubts of many pictures at once, (tasks,) float64 in 0..1 each.

    Parameters
    ----------
    task : (n,) number of the picture of each instance, below ``tasks``
    score, quality : (n,) 0..1; what is not a number counts as 0

    ``entropy``: of the class score in bits; ``margin``: 1 minus the distance between the score and that of
    "no such object"; ``quality``: 1 − score · predicted IoU; ``placement``: 1 − predicted IoU. Means over the
    instances with a score of ``shown_from`` or more, ``NOTHING_SHOWN`` where there is none.
    """
    s = np.clip(np.nan_to_num(np.asarray(score, np.float64)), 0.0, 1.0)
    q = np.clip(np.nan_to_num(np.asarray(quality, np.float64)), 0.0, 1.0)
    shown = s >= shown_from
    at, s, q = np.asarray(task)[shown], s[shown], q[shown]
    count = np.bincount(at, minlength=tasks)
    inside = np.clip(s, 1e-12, 1 - 1e-12)
    entropy = -inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside)
    columns = (entropy, 1.0 - np.abs(2.0 * s - 1.0), 1.0 - s * q, 1.0 - q)
    return {
        name: np.where(
            count > 0, np.bincount(at, column, minlength=tasks) / np.maximum(count, 1), NOTHING_SHOWN
        )
        for name, column in zip(FROM_INSTANCES, columns, strict=True)
    }


def named_doubts(instances: Instances, *, shown_from: float = SHOWN_FROM) -> dict[str, float]:
    """The named doubts of one picture; those that the model gives itself go before those of its instances."""
    found = doubts_of_tasks(
        np.zeros(len(instances), np.int64), instances.score, instances.quality, 1, shown_from=shown_from
    )
    given: Mapping[str, float] = instances.doubts
    return {**{name: float(column[0]) for name, column in found.items()}, **given}


def confidence(instances: Instances, *, shown_from: float = SHOWN_FROM) -> float:
    """Score of a task in 0..1 while it has no place in an order: 1 = nothing to correct is expected.

    One minus the mean of the doubts about scores and masks; see ``doubts_of_tasks``.
    """
    doubts = named_doubts(instances, shown_from=shown_from)
    return float(1.0 - np.mean([doubts[name] for name in ("entropy", "quality", "placement")]))
