"""Logistic regression in numpy: softmax for one label per picture, a sigmoid each for several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

__all__ = ["Linear", "balanced_weights", "fit_linear", "log_loss"]

Floats = npt.NDArray[np.float64]
_MOST_STEPS = 300
_BIAS_PENALTY = 1e-3
"""Keeps the bias of a label finite that a part of a cross-validation has no example of."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Logits ``x @ weight + bias``; weight (d, k), bias (k,) float64. ``steps``: of the optimiser."""

    weight: Floats
    bias: Floats
    steps: int

    def logits(self, x: Floats) -> Floats:
        """(n, k) of (n, d) features."""
        return x @ self.weight + self.bias


def balanced_weights(truth: Floats, *, exclusive: bool) -> Floats:
    """(n, k) weights under which every label counts the same, however rare it is.

    ``truth``: (n, k) of 0 and 1. In a single choice a picture counts ``n / (labels · n of its label)``; in
    multiple choice the pictures with and those without a label count one half each.
    """
    n, k = truth.shape
    with_label = truth.sum(axis=0)
    if exclusive:
        each = n / np.maximum(with_label, 1.0) / max(1, int((with_label > 0).sum()))
        return np.repeat((truth @ each)[:, None], k, axis=1)
    yes, no = 0.5 * n / np.maximum(with_label, 1.0), 0.5 * n / np.maximum(n - with_label, 1.0)
    return np.where(truth > 0.5, yes, no)


def log_loss(logits: Floats, truth: Floats, weights: Floats, *, exclusive: bool) -> Floats:
    """(n,) weighted negative log likelihood of each picture, in nats; summed over labels."""
    if exclusive:
        log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
        return np.asarray(-(weights * truth * log_p).sum(axis=1), np.float64)
    each = np.logaddexp(0.0, logits) - truth * logits
    return np.asarray((weights * each).sum(axis=1), np.float64)


def fit_linear(x: Floats, truth: Floats, weights: Floats, *, penalty: float, exclusive: bool) -> Linear:
    """Minimise the mean weighted log loss plus ``penalty / 2 · |weight|²`` (L-BFGS, started at zero).

    ``x``: (n, d), about standardised; ``truth``, ``weights``: (n, k). Where pictures are fewer than features,
    the problem is solved in the space that they span, which has the same solution.
    """
    n, d = x.shape
    k = truth.shape[1]
    basis: Floats | None = None
    inner = x
    if n < d:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        basis, inner = vt.T, u * s
    columns = inner.shape[1]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weight, bias = flat[: columns * k].reshape(columns, k), flat[columns * k :]
        logits = inner @ weight + bias
        value = log_loss(logits, truth, weights, exclusive=exclusive).mean()
        p = special.softmax(logits, axis=1) if exclusive else special.expit(logits)
        error = weights * (p - truth) / n
        slope = np.concatenate(
            [(inner.T @ error + penalty * weight).reshape(-1), error.sum(axis=0) + _BIAS_PENALTY * bias]
        )
        value += 0.5 * (penalty * (weight**2).sum() + _BIAS_PENALTY * (bias**2).sum())
        return float(value), slope

    found = optimize.minimize(
        loss,
        np.zeros(columns * k + k),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS, "maxcor": 20},
    )
    weight = found.x[: columns * k].reshape(columns, k)
    if basis is not None:
        weight = basis @ weight
    return Linear(weight, found.x[columns * k :], int(found.nit))
