"""From named doubts to the one number by which tasks are ordered, calibrated on pictures with known truth.

``ours`` is the mean of the named doubts. On the frozen test split it is known which share of the objects of a
picture was wrong. From 20 such pictures on, a ridge regression corrects the weights: it starts from equal
ones and moves away only as far as leave-one-out errors get smaller by it. (With fewer pictures it made the
order worse, see docs/figures.md.) The result is the expected share of wrong objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.learners.uncertainty import NOTHING_SHOWN

__all__ = ["NAMED", "DoubtScorer", "fit_scorer", "plain_scorer"]

Floats = npt.NDArray[np.float64]

NAMED: Final = ("entropy", "margin", "quality", "mask_entropy", "tta")
"""Methods that order by one named doubt alone."""

_FEWEST: Final = 20
"""test pictures from which weights are fitted"""
_PENALTIES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
_LEFT_OUT: Final = ("margin",)
"""not part of ``ours``: the margin of a score says what its entropy says"""


@dataclass(frozen=True, slots=True)
class DoubtScorer:
    """``value = intercept + weights · doubts``, cut to 0..1.

    Attributes
    ----------
    names : the named doubts it uses
    weights : one each
    intercept : of the regression; 0 without one
    fitted_on : test pictures it was fitted on, 0 = equal weights
    note : a sentence when a wished-for doubt is not there and another takes its place
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float = 0.0
    fitted_on: int = 0
    note: str = ""

    def values(self, doubts: Mapping[str, Floats], n: int) -> Floats:
        """(n,) values of n pictures; ``doubts`` holds (n,) columns, NaN where a picture lacks one.

        What is missing is taken as the mean of the others' (of the picture's other doubts if all lack it).
        """
        value = self.intercept + _matrix(doubts, self.names, n) @ np.array(self.weights)
        return np.asarray(np.clip(value, 0.0, 1.0), np.float64)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; ``DoubtScorer.from_json`` reads it."""
        return {
            "names": list(self.names),
            "weights": list(self.weights),
            "intercept": self.intercept,
            "fitted_on": self.fitted_on,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DoubtScorer:
        return cls(
            tuple(value["names"]),
            tuple(float(w) for w in value["weights"]),
            float(value["intercept"]),
            int(value["fitted_on"]),
            str(value["note"]),
        )


def plain_scorer(method: str, available: Sequence[str]) -> DoubtScorer:
    """The scorer of a method without calibration: one doubt, or all with equal weights for ``ours``."""
    if method in NAMED:
        if method in available:
            return DoubtScorer((method,), (1.0,))
        return DoubtScorer(("entropy",), (1.0,), note=f"this model gives no {method}: entropy is used")
    names = tuple(name for name in sorted(available) if name not in _LEFT_OUT)
    return DoubtScorer(names, (1.0 / max(len(names), 1),) * len(names))


def fit_scorer(doubts: Mapping[str, Floats], share: Floats, known: npt.NDArray[np.bool_]) -> DoubtScorer:
    """The scorer of ``ours``, fitted where the truth is known.

    Parameters
    ----------
    doubts : (n,) columns by name
    share : (n,) share of the objects that was wrong; read where ``known``
    known : (n,) bool

    Equal weights when fewer than 20 are known, when their shares are all the same, or when no penalty makes
    the leave-one-out error smaller than equal weights (with fitted level and spread) have.
    """
    plain = plain_scorer("ours", tuple(doubts))
    count = int(known.sum())
    if count < _FEWEST or not plain.names or float(share[known].std()) == 0.0:
        return plain
    x = _matrix(doubts, plain.names, len(known))[known]
    y = share[known].astype(np.float64)
    prior = np.array(plain.weights)
    centred, wanted = x - x.mean(axis=0), y - y.mean()
    scale = _slope(centred @ prior, wanted)
    residual = wanted - scale * (centred @ prior)
    best, chosen = float((residual**2).mean()) * (count / (count - 2)) ** 2, np.zeros(len(prior))
    for penalty in _PENALTIES:
        gram = centred.T @ centred + penalty * np.eye(len(prior))
        hat = np.einsum("ij,ji->i", centred, np.linalg.solve(gram, centred.T)) + 2.0 / count
        change = np.linalg.solve(gram, centred.T @ residual)
        error = float((((residual - centred @ change) / np.maximum(1.0 - hat, 1e-3)) ** 2).mean())
        if error < best:
            best, chosen = error, change
    weights = scale * prior + chosen
    return DoubtScorer(
        plain.names,
        tuple(float(w) for w in weights),
        float(y.mean() - x.mean(axis=0) @ weights),
        count,
    )


def _slope(x: Floats, y: Floats) -> float:
    """The slope of y over x, at least a tenth: more doubt never means that less is wrong."""
    spread = float(x @ x)
    return max(0.1, float(x @ y) / spread) if spread > 0 else 1.0


def _matrix(doubts: Mapping[str, Floats], names: Sequence[str], n: int) -> Floats:
    columns: Floats = np.full((n, len(names)), np.nan)
    for i, name in enumerate(names):
        if name in doubts:
            columns[:, i] = doubts[name]
    missing = ~np.isfinite(columns)
    if missing.any():
        there = (~missing).sum(axis=0)
        by_name = np.where(missing, 0.0, columns).sum(axis=0) / np.maximum(there, 1)
        of_row = (~missing).sum(axis=1)
        by_row = np.where(missing, 0.0, columns).sum(axis=1) / np.maximum(of_row, 1)
        by_row[of_row == 0] = NOTHING_SHOWN
        columns = np.where(missing, np.where(there > 0, by_name, by_row[:, None]), columns)
    return np.asarray(columns, np.float64)
