"""Probabilities that mean what they say, from the logits of pictures that a model was not trained on.

A model trained with balanced weights thinks that every label is equally frequent, and a network trained to
the end is too sure of itself. Both are mended by ``scale · logits + shift`` with one scale (temperature
scaling, Guo et al. 2017) and one shift per label, fitted to cross-validated logits. With few pictures both
are kept near what is expected beforehand: scale 1, and the shift that undoes the balanced weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from ml_backend.learners.classes.logistic import log_loss

__all__ = ["Calibration", "fit_calibration"]

Floats = npt.NDArray[np.float64]
_PRIOR = 2.0
"""How strongly scale and shift are held: about as much as this many pictures would."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """``shift``: (k,)."""

    scale: float
    shift: Floats

    def logits(self, logits: Floats) -> Floats:
        """Calibrated logits (n, k)."""
        return self.scale * logits + self.shift

    def probabilities(self, logits: Floats, *, exclusive: bool) -> Floats:
        """(n, k) in 0..1; rows sum to 1 where ``exclusive``."""
        chosen = self.logits(logits)
        p = special.softmax(chosen, axis=1) if exclusive else special.expit(chosen)
        return np.asarray(p, np.float64)


def fit_calibration(logits: Floats, truth: Floats, *, exclusive: bool) -> Calibration:
    """The scale and shifts of least log loss.

    Parameters
    ----------
    logits : (n, k) of pictures that the model was not trained on; the model was trained with balanced weights
    truth : (n, k) of 0 and 1
    """
    n, k = truth.shape
    share = (truth.sum(axis=0) + 0.5) / (n + 1.0)
    expected = np.log(share) - np.log(share).mean() if exclusive else special.logit(share)
    plain = np.ones_like(truth)

    def loss(flat: Floats) -> float:
        scale, shift = np.exp(flat[0]), flat[1:]
        total = log_loss(scale * logits + shift, truth, plain, exclusive=exclusive).sum()
        return float(total + 0.5 * _PRIOR * (flat[0] ** 2 + ((shift - expected) ** 2).sum())) / n

    start = np.concatenate([[0.0], expected])
    bounds = [(-4.0, 3.0)] + [(None, None)] * k
    found = optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    return Calibration(float(np.exp(found.x[0])), np.asarray(found.x[1:], np.float64))
