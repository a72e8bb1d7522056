"""Linear head or whole network: cross-validation says which, and gives the logits to calibrate with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_backend.learners.classes.calibration import Calibration, fit_calibration
from ml_backend.learners.classes.fine_tuning import Truth
from ml_backend.learners.classes.logistic import balanced_weights, fit_linear, log_loss

__all__ = ["Judged", "cross_network", "judge", "judge_linear", "worse_beyond_chance"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
PENALTIES = tuple(float(10.0**e) for e in np.arange(-5.5, 0.1, 0.5))
_MOST = 4000
"""Pictures that penalties are compared on: more change the choice no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """``logits``: (n, k) of pictures by models that were not trained on them; ``losses``: (n,) log loss in
    nats of the calibrated probabilities."""

    logits: Floats
    calibration: Calibration
    losses: Floats

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def judge(logits: Floats, truth: Truth) -> Judged:
    """Calibrate cross-validated logits and measure them."""
    calibration = fit_calibration(logits, truth.tags, exclusive=truth.exclusive)
    plain = np.ones_like(truth.tags)
    losses = log_loss(calibration.logits(logits), truth.tags, plain, exclusive=truth.exclusive)
    return Judged(logits, calibration, losses)


def judge_linear(
    features: Floats, truth: Truth, fold: Ints, folds: Sequence[int], *, seed: int
) -> tuple[float, Judged]:
    """The best penalty for a linear head on (n, d) features, and what cross-validation says of it."""
    rows = np.arange(len(features))
    if len(rows) > _MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST, replace=False))
    part, mine = truth.take(rows), fold[rows]
    best: tuple[float, Judged] | None = None
    for penalty in PENALTIES:
        judged = judge(_cross(features[rows], part, mine, folds, penalty), part)
        if best is None or judged.loss < best[1].loss:
            best = penalty, judged
    assert best is not None
    if len(rows) < len(features):
        return best[0], judge(_cross(features, truth, fold, folds, best[0]), truth)
    return best


def _cross(features: Floats, truth: Truth, fold: Ints, folds: Sequence[int], penalty: float) -> Floats:
    logits = np.zeros_like(truth.tags)
    for number in folds:
        inside = fold != number
        if not inside.any() or inside.all():
            continue
        tags = truth.tags[inside]
        weights = balanced_weights(tags, exclusive=truth.exclusive)
        fitted = fit_linear(features[inside], tags, weights, penalty=penalty, exclusive=truth.exclusive)
        logits[~inside] = fitted.logits(features[~inside])
    return logits


def cross_network(
    train: Callable[[int, Ints, Ints], Floats],
    truth: Truth,
    fold: Ints,
    folds: Sequence[int],
    rival: Judged | None,
) -> tuple[Judged | None, str]:
    """Cross-validated logits of the network; None, and why, when a fold shows that it is clearly worse.

    ``train(number, inside, outside)`` trains on the pictures ``inside`` and gives the logits of those
    ``outside``.
    """
    logits = np.zeros_like(truth.tags)
    done = np.zeros(len(fold), np.bool_)
    for number in folds:
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        logits[outside] = train(number, inside, outside)
        done[outside] = True
        rows = np.flatnonzero(done)
        so_far = judge(logits[rows], truth.take(rows))
        if (
            rival is not None
            and number != folds[-1]
            and worse_beyond_chance(so_far.losses, rival.losses[rows])
        ):
            return None, f"after {len(rows)} pictures its log loss was {so_far.loss:.3f}"
    return judge(logits, truth), ""


def worse_beyond_chance(losses: Floats, rival: Floats) -> bool:
    """Whether the mean loss is higher than the rival's by more than two standard errors of the difference."""
    gap = losses - rival
    return bool(gap.mean() > 2.0 * gap.std() / np.sqrt(len(gap)) and gap.mean() > 0.0)
