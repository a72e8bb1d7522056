"""Which of many masks look most like some that people drew: similarity, and a choice with limits.

A mask is a row of numbers about how it looks. The rows are scaled by what the candidates look like on the
whole, and compared by the cosine of their angle (PerSAM, Zhang et al. 2023, compares the features of pixels
with those of one drawn mask in this way). How much a candidate looks like a whole object of any kind counts
as well: half of a nucleus has the colours of a nucleus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clustering.arrays import Bools, Floats, Ints

__all__ = ["Scaling", "alikeness", "apart", "best_rows", "rank_score", "scaling_of"]

Features = npt.NDArray[np.float32]

_WIDEST: Final = 5.0
"""Values further from the mean than so many standard deviations are cut: one odd number must not decide."""
_NEAREST: Final = 3
"""Similarity to a set is the mean of that to its nearest members: one odd member must not decide."""
_OBJECTNESS: Final = 0.5
_PER_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Mean and spread of each of f numbers, (f,) float32 both."""

    mean: Features
    spread: Features

    def __call__(self, points: Features) -> Features:
        """(n, f) float32 of length one each; a row that is the mean itself stays zero."""
        scaled = np.clip((points - self.mean) / self.spread, -_WIDEST, _WIDEST)
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        return np.asarray(scaled / np.maximum(length, 1e-6), np.float32)


def scaling_of(points: Features) -> Scaling:
    """The scaling by which these points (n, f) have mean 0 and spread 1; n may be 0."""
    if not len(points):
        return Scaling(np.zeros(points.shape[1], np.float32), np.ones(points.shape[1], np.float32))
    spread = points.std(axis=0)
    # a number that is the same for all tells nothing, whatever an exemplar has there
    spread = np.where(spread > 1e-6, spread, np.inf)
    return Scaling(points.mean(axis=0).astype(np.float32), spread.astype(np.float32))


def alikeness(points: Features, wanted: Features) -> Floats:
    """(n,) float64 in 0..1, how much each point looks like those wanted: (1 + mean cosine with the three
    nearest of them) / 2.

    Parameters
    ----------
    points : (n, f), scaled
    wanted : (m, f), scaled, of the masks to look for; m at least 1
    """
    return np.clip((1 + _nearness(points, wanted)) / 2, 0.0, 1.0)


def rank_score(alike: Floats, objectness: Features | Floats) -> Floats:
    """(n,) float64 in 0..1 by which candidates are sorted, from two numbers in 0..1 each.

    It is no probability. The weight was chosen on the tune parts of nuclei and mushrooms
    (``bench.more_like_this``).
    """
    return np.asarray((alike + _OBJECTNESS * objectness) / (1 + _OBJECTNESS), np.float64)


def _nearness(points: Features, others: Features) -> Floats:
    most = min(_NEAREST, len(others))
    out = np.empty(len(points))
    for start in range(0, len(points), _PER_BLOCK):
        cosine = points[start : start + _PER_BLOCK] @ others.T
        top = np.partition(cosine, len(others) - most, axis=1)[:, len(others) - most :]
        out[start : start + _PER_BLOCK] = top.mean(axis=1)
    return out


def apart(score: Floats, clash: Bools) -> Ints:
    """Rows of one picture, the highest score first, without those that ``clash`` (n, n) with a better one."""
    taken = np.zeros(len(score), np.bool_)
    kept: list[int] = []
    for row in np.argsort(-score, kind="stable").tolist():
        if not taken[row]:
            kept.append(row)
            taken |= clash[row]
    return np.array(kept, np.int64)


def best_rows(score: Floats, picture: Sequence[int] | Ints, *, most: int, per_picture: int) -> Ints:
    """The ``most`` rows of highest score, at most ``per_picture`` of each picture, the best first."""
    pictures = np.asarray(picture, np.int64)
    used: dict[int, int] = {}
    kept: list[int] = []
    for row in np.argsort(-score, kind="stable").tolist():
        if len(kept) == most:
            break
        there = int(pictures[row])
        if used.get(there, 0) < per_picture:
            used[there] = used.get(there, 0) + 1
            kept.append(row)
    return np.array(kept, np.int64)
