"""The verifier: the probability of a yes for every instance, learnt from the answers so far.

It has two stages. The first is a ridge logistic regression on score, predicted IoU, extras and the leading
principal components of the embedding. The second smooths its residuals over the tree: where the answers in a
cluster were better or worse than the regression expected, the other members of the cluster inherit part of
the difference. Both stages are cross-fitted: what the last step learns from was predicted without the
instance's own answer. So the output is calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Floats, Ints
from clustering.pool import Pool
from clustering.trees import ClusterTree

__all__ = ["Features", "fit_logistic", "fit_verifier", "make_features", "smooth_over_tree"]


_COMPONENTS = 16
_PCA_ROWS = 20_000
"""Principal components are computed from at most this many instances."""
_FOLDS = 5
_RIDGES = (1.0, 4.0, 16.0, 64.0)
"""Ridge penalties to choose from, by cross-validation."""
_SHRINK = 8.0
"""Answers that the parent's estimate is worth when residuals are smoothed down the tree."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the verifier reads of a pool.

    Attributes
    ----------
    columns : (n, p) float32, standardised, first column 1
    penalty : (p,) float64, relative ridge penalty: none for the constant, light for the detector's own
        numbers
    detector : (n,) float64, log-odds of score × quality: the estimate before any answer
    """

    columns: npt.NDArray[np.float32]
    penalty: Floats
    detector: Floats


def make_features(pool: Pool, *, components: int = _COMPONENTS, seed: int = 0) -> Features:
    """What the verifier reads of a pool, computed once per pool.

    Parameters
    ----------
    components : most principal components of the embedding
    seed : of the sample that they are computed from, in large pools

    Time O(n·d·components), memory O(n·components).
    """
    n = len(pool)
    own = [pool.score, pool.quality, special.logit(np.clip(pool.quality, 0.02, 0.98)), pool.prior]
    detector_columns = _standardise(np.stack(own, axis=1).astype(np.float32))
    parts = [np.ones((n, 1), np.float32), detector_columns]
    penalties = [np.zeros(1), np.full(len(own), 0.1)]
    if pool.extras.shape[1]:
        parts.append(_standardise(pool.extras))
        penalties.append(np.full(pool.extras.shape[1], 1.0))
    if n > 1 and pool.embedding.shape[1]:
        principal = _principal_components(pool.embedding, components, seed)
        parts.append(principal)
        penalties.append(np.full(principal.shape[1], 1.0))
    detector = special.logit(np.clip(pool.prior.astype(np.float64), 0.02, 0.98))
    return Features(np.concatenate(parts, axis=1), np.concatenate(penalties), detector)


def _standardise(columns: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not len(columns):
        return columns
    centred = columns - columns.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    return np.asarray(centred / np.where(spread > 1e-9, spread, 1.0), np.float32)


def _principal_components(
    embedding: npt.NDArray[np.float32], components: int, seed: int
) -> npt.NDArray[np.float32]:
    """(n, c) float32 leading components, scaled such that weak ones stay weak."""
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
        return np.zeros((n, 0), np.float32)
    # the square root of whitening: with whitening, components of mere noise would count as much as the
    # others; without, only the first one would count
    scale = (values[keep] * values[keep[0]]) ** 0.25
    basis = (vectors[:, keep] / scale).astype(np.float32)
    projected: npt.NDArray[np.float32] = embedding @ basis - (mean @ basis).astype(np.float32)
    return projected


def fit_logistic(
    columns: npt.NDArray[np.floating], yes: Floats, penalty: Floats, *, iterations: int = 30
) -> Floats:
    """Ridge logistic regression by Newton's method.

    Parameters
    ----------
    columns : (m, p) floating
    yes : (m,) in 0..1; values between are allowed
    penalty : (p,) ridge penalty of each coefficient
    iterations : most steps

    Returns
    -------
    (p,) float64 coefficients. Time O(iterations · m · p²).
    """
    x = columns.astype(np.float64)
    beta: Floats = np.zeros(x.shape[1])
    ridge = penalty + 1e-6

    def loss(b: Floats) -> float:
        z = x @ b
        return float(np.logaddexp(0.0, z).sum() - yes @ z + 0.5 * ridge @ (b * b))

    current = loss(beta)
    for _ in range(iterations):
        p = special.expit(x @ beta)
        gradient = x.T @ (p - yes) + ridge * beta
        hessian = (x * (p * (1.0 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while (new := loss(beta - scale * step)) > current and scale > 1e-4:
            scale *= 0.5
        beta = beta - scale * step
        if current - new < 1e-8 * (1.0 + abs(current)):
            break
        current = new
    return beta


def smooth_over_tree(tree: ClusterTree, item: Ints, residual: Floats, *, at: Ints | None = None) -> Floats:
    """Residuals of answered instances, smoothed down the tree.

    The estimate of a node is the mean residual of its answers, shrunk towards the estimate of its parent. An
    instance gets the estimate of the smallest node around it that holds three or more answers.

    Parameters
    ----------
    item : (m,) int64, answered instances
    residual : (m,) float64, answer minus expectation
    at : (k,) int64, instances to return the estimate for; None = all

    Returns
    -------
    (n,) or (k,) float64. Time O(m · depth + n).
    """
    n = len(tree)
    where = tree.start[item]
    by_place = np.argsort(where, kind="stable")
    place = where[by_place]
    total = np.concatenate([[0.0], np.cumsum(residual[by_place])])
    nodes, parents = np.array([tree.root]), np.zeros(1)
    starts: list[Ints] = []
    values: list[Floats] = []
    while len(nodes):
        low = np.searchsorted(place, tree.start[nodes])
        high = np.searchsorted(place, tree.stop[nodes])
        count = high - low
        estimate = (total[high] - total[low] + _SHRINK * parents) / (count + _SHRINK)
        stays = (count < 3) | (nodes < n)
        estimate[count < 3] = parents[count < 3]
        starts.append(tree.start[nodes[stays]])
        values.append(estimate[stays])
        deeper = nodes[~stays] - n
        nodes = np.concatenate([tree.left[deeper], tree.right[deeper]])
        parents = np.concatenate([estimate[~stays]] * 2)
    first, value = np.concatenate(starts), np.concatenate(values)
    order = np.argsort(first)
    first, value = first[order], value[order]
    if at is not None:
        return value[np.searchsorted(first, tree.start[at], side="right") - 1]
    spread = np.repeat(value, np.diff(np.append(first, n)))
    result = np.empty(n)
    result[tree.order] = spread
    return result


def fit_verifier(
    features: Features, tree: ClusterTree, item: Ints, yes: npt.ArrayLike, *, seed: int
) -> npt.NDArray[np.float32]:
    """P(yes) of every instance, from verdicts on some.

    With fewer than 8 verdicts of either kind only one number is learnt, by which the detector's log-odds are
    shifted.

    Parameters
    ----------
    features : of the pool, see ``make_features``
    item : (m,) int64, answered instances
    yes : (m,) in 0..1
    seed : of the folds of the cross-validation

    Returns
    -------
    (n,) float32 in 0..1. Time O(n·p + m·p²·folds·ridges); deterministic for a seed.
    """
    y = np.asarray(yes, np.float64)
    m = len(item)
    if min((y > 0.5).sum(), (y <= 0.5).sum()) < 8:
        # Newton steps, with a penalty that keeps the shift near 0 while there are few answers
        shift = 0.0
        for _ in range(25 if m else 0):
            p = special.expit(features.detector[item] + shift)
            shift += ((y - p).sum() - shift) / ((p * (1 - p)).sum() + 1.0)
        return np.asarray(special.expit(features.detector + shift), np.float32)
    x = features.columns[item].astype(np.float64)
    fold = np.random.default_rng([seed, m]).permutation(m) % _FOLDS
    losses, held_out = [], []
    for ridge in _RIDGES:
        z = np.empty(m)
        for k in range(_FOLDS):
            out = fold == k
            z[out] = x[out] @ fit_logistic(x[~out], y[~out], ridge * features.penalty)
        losses.append(float((np.logaddexp(0.0, z) - y * z).sum()))
        held_out.append(z)
    best = int(np.argmin(losses))
    beta = fit_logistic(x, y, _RIDGES[best] * features.penalty)
    z = held_out[best]
    residual = y - special.expit(z)
    smooth = np.empty(m)
    for k in range(_FOLDS):
        out = fold == k
        smooth[out] = smooth_over_tree(tree, item[~out], residual[~out], at=item[out])
    second = np.stack([np.ones(m), z, 4.0 * smooth], axis=1)
    # the second stage starts from the first: the penalty is on the distance of its slope from 1
    gamma = _fit_offset(second, z, y, np.array([1.0, 20.0, 4.0]))
    all_z = (features.columns @ beta.astype(np.float32)).astype(np.float64)
    all_smooth = smooth_over_tree(tree, item, residual)
    log_odds = gamma[0] + (1.0 + gamma[1]) * all_z + gamma[2] * 4.0 * all_smooth
    return np.asarray(special.expit(log_odds), np.float32)


def _fit_offset(columns: Floats, offset: Floats, yes: Floats, penalty: Floats) -> Floats:
    """(3,) coefficients of a ridge logistic regression with a fixed offset, by Newton's method."""
    beta = np.zeros(columns.shape[1])
    for _ in range(12):
        p = special.expit(offset + columns @ beta)
        gradient = columns.T @ (p - yes) + penalty * beta
        hessian = (columns * (p * (1.0 - p))[:, None]).T @ columns + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        beta = beta - step * min(1.0, 1.0 / max(np.abs(step).max(), 1e-12))
    return beta
