"""The verifier: how likely each instance gets a yes, learnt from the answers so far.

A ridge logistic regression on score, predicted IoU, extras, the leading principal components of the
embedding, and the label. Score, predicted IoU and extras enter as piecewise linear functions with knots at
their quartiles (an additive model: Hastie, Tibshirani, Friedman 2009, chapter 9): a score of 0.99 may mean
much more than one of 0.9, and one of 0.5 no less than one of 0.6. It learns from three sources: answers about
masks of this pool, answers about nearly the same masks of an earlier round, and lessons (predictions on
pictures that people drew on). Its log-odds are then scaled and shifted such that they fit held-out answers,
so the output is calibrated.

``python -m bench.verifier`` compares it with others: gradient boosting and neighbours gain little and take
many times as long, smoothing over the cluster tree gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Floats, Ints
from clustering.pool import Pool
from clustering.project_pool import ProjectPool

__all__ = [
    "FEWEST",
    "RIDGES",
    "Features",
    "Verifier",
    "compare_ridges",
    "fit_logistic",
    "fit_verifier",
    "make_features",
]


_COMPONENTS = 16
_PCA_ROWS = 20_000
"""Principal components are computed from at most this many instances."""
_FIT_ROWS = 8_000
"""The regression reads at most this many answers."""
_FOLDS = 5
RIDGES = (64.0, 16.0, 4.0, 1.0)
"""Ridge penalties to choose from, by cross-validation; each fit starts from the one before."""
_KNOTS = (0.25, 0.5, 0.75)
"""Quantiles at which the slope of a column may change."""
_BEND_PENALTY = 2.0
"""Relative ridge penalty of these changes."""
_BLOCK = 65_536
"""Rows that are predicted together."""
FEWEST = 8
"""Verdicts of either kind from which on more than one number is learnt."""
_HINT = 2.5
"""Log-odds that an answer about nearly the same mask of an earlier round adds or takes away."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the verifier reads of a project's pool.

    Attributes
    ----------
    columns : (n, p) float32, standardised, first column 1
    lessons : (k, p) float32, the same of the lessons
    bends : (b,) int64, columns whose slope may change, one entry per knot
    knot, mean, spread : (b,) float32, where it may change; mean and spread of what lies beyond
    penalty : (p + b,) float64, relative ridge penalty: none for the constant, light for the detector's own
        numbers
    detector : (n,) float64, log-odds of score × quality: the estimate before any answer
    detector_lessons : (k,) float64, the same of the lessons
    """

    columns: npt.NDArray[np.float32]
    lessons: npt.NDArray[np.float32]
    bends: Ints
    knot: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    penalty: Floats
    detector: Floats
    detector_lessons: Floats

    def bent(self, columns: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(k, p + b) float32: rows of ``columns`` or ``lessons``, and how far each lies beyond the knots.

        Worked out where it is needed: for a million rows it would take hundreds of megabytes.
        """
        beyond = np.maximum(columns[:, self.bends] - self.knot, np.float32(0.0))
        return np.concatenate([columns, (beyond - self.mean) / self.spread], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Verifier:
    """What was learnt.

    Attributes
    ----------
    p_yes : (n,) float32 in 0..1, of every instance
    p_lessons : (k,) float32 in 0..1, of every lesson, learnt without the lessons of its own picture
    """

    p_yes: npt.NDArray[np.float32]
    p_lessons: npt.NDArray[np.float32]


def make_features(project: ProjectPool, *, components: int = _COMPONENTS, seed: int = 0) -> Features:
    """What the verifier reads of a pool, computed once per pool.

    Parameters
    ----------
    components : most principal components of the embedding
    seed : of the sample that they are computed from, in large pools

    Time O(n·d·components), memory O(n·components).
    """
    pool, known = project.columns, project.lessons
    others = None if known is None or not len(known) else known.pool
    parts = [_together(_own_columns, pool, others)]
    penalties = [np.full(parts[0].shape[1], 0.1)]
    if pool.extras.shape[1]:
        parts.append(_together(lambda some: some.extras, pool, others))
        penalties.append(np.full(pool.extras.shape[1], 1.0))
    n = len(pool)
    whole = [_standardise(part, n) for part in parts]
    if n > 1 and pool.embedding.shape[1]:
        principal = _principal_components(pool.embedding, others, components, seed)
        whole.append(principal)
        penalties.append(np.full(principal.shape[1], 1.0))
    if len(project.pools) > 1:
        of_lessons = np.zeros(0, np.int64) if known is None or others is None else known.label
        label = np.concatenate([project.label, of_lessons])
        whole.append((label[:, None] == np.arange(len(project.pools))).astype(np.float32))
        penalties.append(np.full(len(project.pools), 1.0))
    rows = n + (0 if others is None else len(others))
    columns = np.concatenate([np.ones((rows, 1), np.float32), *whole], axis=1)
    bends, knot, mean, spread = _find_bends(columns[:n], 1 + _OWN + pool.extras.shape[1], seed)
    penalty = np.concatenate([np.zeros(1), *penalties, np.full(len(bends), _BEND_PENALTY)])
    prior = np.concatenate([pool.prior, np.zeros(0, np.float32) if others is None else others.prior])
    detector = special.logit(np.clip(prior.astype(np.float64), 0.02, 0.98))
    return Features(columns[:n], columns[n:], bends, knot, mean, spread, penalty, detector[:n], detector[n:])


_OWN = 6


def _own_columns(pool: Pool) -> npt.NDArray[np.float32]:
    """What the detector itself says about its masks: ``_OWN`` columns."""
    odds = [special.logit(np.clip(pool.quality, 0.02, 0.98)), special.logit(np.clip(pool.score, 0.02, 0.995))]
    odds.append(special.logit(np.clip(pool.prior, 0.02, 0.98)))
    return np.stack([pool.score, pool.quality, pool.prior, *odds], axis=1).astype(np.float32)


def _find_bends(
    columns: npt.NDArray[np.float32], end: int, seed: int
) -> tuple[Ints, npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Column, knot, and mean and spread beyond the knot, of columns 1 to ``end``; see ``Features``."""
    some = columns
    if len(columns) > _PCA_ROWS:
        some = columns[np.sort(np.random.default_rng(seed).choice(len(columns), _PCA_ROWS, replace=False))]
    bends: Ints = np.zeros(0, np.int64)
    knots: npt.NDArray[np.float32] = np.zeros(0, np.float32)
    if len(some):
        quartiles = np.quantile(some[:, 1:end], _KNOTS, axis=0, method="lower").astype(np.float32)
        # equal knots of a column that takes few values count once
        new = np.concatenate([np.ones((1, end - 1), bool), np.diff(quartiles, axis=0) > 0])
        new &= (quartiles > some[:, 1:end].min(axis=0)) & (quartiles < some[:, 1:end].max(axis=0))
        which, column = np.nonzero(new)
        bends, knots = column.astype(np.int64) + 1, quartiles[which, column]
    beyond = np.maximum(some[:, bends] - knots, np.float32(0.0))
    mean = beyond.mean(axis=0, dtype=np.float64) if len(some) else np.zeros(0)
    spread = beyond.std(axis=0, dtype=np.float64) if len(some) else np.zeros(0)
    safe = np.where(spread > 1e-6, spread, 1.0)
    return bends, knots, mean.astype(np.float32), safe.astype(np.float32)


def _together(read: Callable[[Pool], Any], pool: Pool, others: Pool | None) -> npt.NDArray[np.float32]:
    parts = [read(pool)] if others is None else [read(pool), read(others)]
    whole: npt.NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
    return whole


def _standardise(columns: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
    """Zero mean and unit spread over the first ``n`` rows."""
    if not n:
        return columns
    mean = columns[:n].mean(axis=0, dtype=np.float64)
    spread = columns[:n].std(axis=0, dtype=np.float64)
    return np.asarray((columns - mean) / np.where(spread > 1e-9, spread, 1.0), np.float32)


def _principal_components(
    embedding: npt.NDArray[np.float32], others: Pool | None, components: int, seed: int
) -> npt.NDArray[np.float32]:
    """(n + k, c) float32 leading components, scaled such that weak ones stay weak."""
    n, d = embedding.shape
    rows = embedding
    if n > _PCA_ROWS:
        rows = embedding[np.sort(np.random.default_rng(seed).choice(n, _PCA_ROWS, replace=False))]
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows.astype(np.float64) - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    least = 1e-6 * max(float(values[-1]), 1e-12)
    keep = [i for i in range(d - 1, max(-1, d - 1 - components), -1) if values[i] > least]
    if not keep:
        return np.zeros((n + (0 if others is None else len(others)), 0), np.float32)
    # the square root of whitening: with whitening, components of mere noise would count as much as the
    # others; without, only the first one would count
    scale = (values[keep] * values[keep[0]]) ** 0.25
    basis = (vectors[:, keep] / scale).astype(np.float32)
    shift = (mean @ basis).astype(np.float32)
    projected = [embedding @ basis - shift]
    if others is not None:
        projected.append(others.embedding @ basis - shift)
    whole: npt.NDArray[np.float32] = np.concatenate(projected).astype(np.float32)
    return whole


def fit_logistic(
    columns: npt.NDArray[np.floating],
    yes: Floats,
    penalty: Floats,
    *,
    offset: Floats | float = 0.0,
    start: Floats | None = None,
    iterations: int = 30,
) -> Floats:
    """Ridge logistic regression by Newton's method.

    Parameters
    ----------
    columns : (m, p) floating
    yes : (m,) in 0..1; values between are allowed
    penalty : (p,) ridge penalty of each coefficient
    offset : (m,) known part of the log-odds
    start : (p,) coefficients to start from; the result is the same, it is only found sooner
    iterations : most steps

    Returns
    -------
    (p,) float64 coefficients. Time O(iterations · m · p²).
    """
    x = columns.astype(np.float64, copy=False)
    beta: Floats = np.zeros(x.shape[1]) if start is None else start
    ridge = penalty + 1e-6

    def loss(b: Floats, z: Floats) -> float:
        return float(np.logaddexp(0.0, z).sum() - yes @ z + 0.5 * ridge @ (b * b))

    z: Floats = x @ beta + offset
    current = loss(beta, z)
    for _ in range(iterations):
        p = special.expit(z)
        gradient = x.T @ (p - yes) + ridge * beta
        # a matrix times itself takes half of what a product of two takes
        root = x * np.sqrt(p * (1.0 - p))[:, None]
        step = np.linalg.solve(root.T @ root + np.diag(ridge), gradient)
        along = x @ step
        scale = 1.0
        while (new := loss(beta - scale * step, z - scale * along)) > current and scale > 1e-4:
            scale *= 0.5
        beta, z = beta - scale * step, z - scale * along
        if current - new < 1e-8 * (1.0 + abs(current)):
            break
        current = new
    return beta


def fit_verifier(
    features: Features,
    item: Ints,
    yes: npt.ArrayLike,
    *,
    seed: int,
    hint_item: Ints | None = None,
    hint_yes: npt.ArrayLike = (),
    good: npt.ArrayLike = (),
    picture: npt.ArrayLike = (),
) -> Verifier:
    """P(yes) of every instance, from verdicts on some.

    With fewer than 8 verdicts of either kind only one number is learnt, by which the detector's log-odds are
    shifted.

    Parameters
    ----------
    features : of the pool, see ``make_features``
    item : (m,) int64, answered instances
    yes : (m,) in 0..1
    hint_item, hint_yes : (h,) instances whose predecessor of an earlier round was answered, and how
    good : (k,) bool, truth of the lessons; their order is that of ``features.lessons``
    picture : (k,) int64, picture of each lesson
    seed : of the folds of the cross-validation

    Time O(n·p + m·p²·folds·ridges); the same result for the same seed.
    """
    n, k = len(features.columns), len(features.lessons)
    hint = np.zeros(n)
    hints = np.zeros(0, np.int64) if hint_item is None else hint_item
    told = np.asarray(hint_yes, np.float64)
    hint[hints] = _HINT * (2.0 * told - 1.0)
    rows = np.concatenate([item, hints, n + np.arange(k)])
    y = np.concatenate([np.asarray(yes, np.float64), told, np.asarray(good, np.float64)])
    # rows that must stay together in the folds: lessons of one picture
    block = np.concatenate([np.arange(len(item) + len(hints)), -1 - np.asarray(picture, np.int64)])
    own = np.concatenate([hint[item], np.zeros(len(hints) + k)])
    if len(rows) > _FIT_ROWS:
        some = np.sort(np.random.default_rng([seed, len(rows)]).choice(len(rows), _FIT_ROWS, replace=False))
        some = np.union1d(some, np.flatnonzero(rows >= n))  # all lessons: each gets a held-out estimate
        rows, y, block, own = rows[some], y[some], block[some], own[some]
    detector = np.concatenate([features.detector, features.detector_lessons])
    if min((y > 0.5).sum(), (y <= 0.5).sum()) < FEWEST:
        shift = _shift(detector[rows] + own, y)
        p = special.expit(detector + np.concatenate([hint, np.zeros(k)]) + shift).astype(np.float32)
        return Verifier(p[:n], p[n:])
    inside = rows < n
    x = np.empty((len(rows), len(features.penalty)))
    x[inside] = features.bent(features.columns[rows[inside]])
    x[~inside] = features.bent(features.lessons[rows[~inside] - n])
    _, group = np.unique(block, return_inverse=True)
    loss, held_out = compare_ridges(x, y, own, group, features.penalty, seed=[seed, len(rows)])
    best = int(np.argmin(loss))
    z = held_out[best]
    beta = fit_logistic(x, y, RIDGES[best] * features.penalty, offset=own)
    # the second stage starts from the first: the penalty is on the distance of its slope from 1
    second = fit_logistic(np.stack([np.ones(len(z)), z], axis=1), y, np.array([1.0, 20.0]), offset=z)
    weight = beta.astype(np.float32)
    blocks = [features.bent(features.columns[at : at + _BLOCK]) @ weight for at in range(0, n, _BLOCK)]
    whole = np.concatenate([np.zeros(0), *blocks]) + hint
    p_yes = special.expit(second[0] + (1.0 + second[1]) * whole).astype(np.float32)
    of_lessons = special.expit(second[0] + (1.0 + second[1]) * z[~inside]).astype(np.float32)
    return Verifier(p_yes, of_lessons)


def compare_ridges(
    x: npt.NDArray[np.floating], y: Floats, own: Floats, group: Ints, penalty: Floats, *, seed: Sequence[int]
) -> tuple[Floats, Floats]:
    """How well each ridge predicts what it has not seen, by cross-validation.

    Parameters
    ----------
    x, y, own : (m, p), (m,) and (m,): columns, verdicts, and the known part of the log-odds
    group : (m,) int64 from 0 on; rows of one group stay together in the folds
    penalty : (p,) relative ridge penalty, multiplied by each of ``RIDGES``
    seed : of the folds

    Returns
    -------
    loss : (ridges,) log loss, summed over the rows
    held_out : (ridges, m) log-odds of each row, learnt without its fold
    """
    groups = int(group.max()) + 1
    fold = (np.random.default_rng(seed).permutation(groups) % _FOLDS)[group]
    held_out = np.zeros((len(RIDGES), len(y)))
    first: Floats | None = None
    for f in np.unique(fold).tolist():
        out = fold == f
        inner, told_inner, known_inner = x[~out].astype(np.float64), y[~out], own[~out]
        beta = first
        for i, ridge in enumerate(RIDGES):
            beta = fit_logistic(inner, told_inner, ridge * penalty, offset=known_inner, start=beta)
            first = beta if i == 0 else first
            held_out[i, out] = x[out] @ beta + own[out]
    loss: Floats = (np.logaddexp(0.0, held_out) - y * held_out).sum(axis=1)
    return loss, held_out


def _shift(log_odds: Floats, yes: Floats) -> float:
    """One number to add to the log-odds, kept near 0 while there are few answers, by Newton's method."""
    shift = 0.0
    for _ in range(25 if len(yes) else 0):
        p = special.expit(log_odds + shift)
        shift += float(((yes - p).sum() - shift) / ((p * (1 - p)).sum() + 1.0))
    return shift
