"""What the truth about a pool may be, given all that is known of it: draws to play forecasts on.

The verifier (``clustering.verifier``) says how likely each mask is good. A forecast also needs to know how
sure that is. And it must not draw one mask independently of the next: if the verifier is wrong, it is wrong
about many masks that look alike, and then people's answers would teach it. So the *coefficients* of its
regression are drawn, and then a truth for every mask from the drawn regression.

The draw is a normal one around the fitted coefficients. Its covariance is the inverse curvature (Laplace's
approximation: Bishop 2006, section 4.5) with the noise of the verdicts replaced by what the pictures show:
masks of one picture are good or bad together, so each picture's residuals are given one random weight (the
multiplier bootstrap; Mammen 1993). The prior is the ridge penalty. How strong it should be is not known
either: every draw takes one of the ridges, the likelier the better it predicted what it had not seen
(pseudo-Bayesian model averaging: Yao, Vehtari, Simpson and Gelman 2018).

With few pictures such residuals can be small by luck: four large pictures that happen to be alike seem to say
that all large pictures are (Cameron and Miller 2015, section VI). So the noise of a random intercept per
picture is added, whose spread is learnt from all pictures together (Bell and McCaffrey 2002 call this a
working model). That spread is not known either, and every draw takes one that fits.

With fewer than 8 verdicts of either kind there is no regression. Then the detector's log-odds are shifted and
stretched at random, around the shift that the verdicts speak for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from clustering.arrays import Bools, Floats, Ints
from clustering.project_pool import ProjectPool
from clustering.verifier import FEWEST, RIDGES, Features, compare_ridges, fit_logistic, make_features

__all__ = ["SPREADS", "Belief", "TruthModel", "fit_truth", "picture_spread"]

_STRETCH_SD = 0.35
"""Spread of the logarithm of the factor on the detector's log-odds while nothing is learnt."""
_SHIFT_SD = 1.0
"""Spread of the shift of the log-odds before any verdict."""
STEEPER, STEEPER_SD = 0.05, 0.12
"""Mean and spread of the logarithm of a factor on the log-odds of a regression: held back by its penalty, it
is too flat at times. Chosen on seeds of ``bench.preview`` that are not reported."""
_LEAST_WEIGHT = 0.02
"""Ridges that are less likely are left out."""
SPREADS: Floats = np.concatenate([[0.05], np.geomspace(0.15, 4.0, 14)])
"""Standard deviations of the intercept of a picture, in log-odds, that are thought possible."""
_USUAL_SPREAD = 1.0
"""Scale of the half-normal prior of that standard deviation."""
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(31)


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """One regression with what is not known of it.

    Attributes
    ----------
    centre : (n,) float64, log-odds of every mask
    directions : (n, r) float32, how the log-odds move with each of r independent standard normal numbers
    between : (n, q) float32, the same where the intercepts of pictures have a standard deviation of 1
    spread : (s,) how likely each of ``SPREADS`` is that standard deviation
    """

    centre: Floats
    directions: npt.NDArray[np.float32]
    between: npt.NDArray[np.float32]
    spread: Floats


@dataclass(frozen=True, slots=True, eq=False)
class TruthModel:
    """How likely each mask is good, and how sure that is.

    Attributes
    ----------
    beliefs, weight : regressions, and how likely each is the right one
    steeper, stretch : mean and spread of the logarithm of a factor on the log-odds
    known : (n,) float64, 1 good and 0 bad where people have said so, NaN elsewhere
    """

    beliefs: Sequence[Belief]
    weight: Floats
    steeper: float
    stretch: float
    known: Floats

    @property
    def centre(self) -> Floats:
        """(n,) float64: log-odds of every mask, the mean over the beliefs."""
        return np.asarray(
            sum(weight * belief.centre for weight, belief in zip(self.weight, self.beliefs, strict=True)),
            np.float64,
        )

    def draw(self, rng: np.random.Generator) -> Bools:
        """(n,) bool: one truth that fits all that is known."""
        belief = self.beliefs[int(rng.choice(len(self.beliefs), p=self.weight))]
        moves = rng.standard_normal(belief.directions.shape[1]).astype(np.float32)
        pictures = rng.standard_normal(belief.between.shape[1]).astype(np.float32)
        pictures *= SPREADS[int(rng.choice(len(SPREADS), p=belief.spread))]
        z = belief.centre + belief.directions @ moves + belief.between @ pictures
        z *= np.exp(self.steeper + self.stretch * rng.standard_normal())
        good = rng.random(len(z)) < special.expit(z)
        return np.where(np.isnan(self.known), good, self.known > 0.5).astype(np.bool_)


def fit_truth(project: ProjectPool, item: Ints, yes: npt.ArrayLike, *, seed: int) -> TruthModel:
    """Learn from the lessons of a project, and from what people said about masks of its pool.

    Parameters
    ----------
    item : (m,) masks with a verdict, each once
    yes : (m,) in 0..1
    seed : of the folds of the cross-validation

    Time O(n·p² + m·p²·folds·ridges), memory O(n·p).
    """
    features = make_features(project)
    n, lessons = len(project), project.lessons
    said = np.asarray(yes, np.float64)
    known = np.full(n, np.nan)
    known[item] = said > 0.5
    good = np.zeros(0) if lessons is None else lessons.good.astype(np.float64)
    y = np.concatenate([said, good])
    picture = np.zeros(0, np.int64) if lessons is None else lessons.picture
    # answers are about single masks, lessons come by the picture
    _, group = np.unique(np.concatenate([np.arange(len(item)), -1 - picture]), return_inverse=True)
    if min((y > 0.5).sum(), (y <= 0.5).sum()) < FEWEST:
        return _detector_alone(features, item, y, known)
    x = np.concatenate([features.bent(features.columns[item]), features.bent(features.lessons)])
    loss, held_out = compare_ridges(x, y, np.zeros(len(y)), group, features.penalty, seed=[seed, len(y)])
    weight = special.softmax(-loss)
    used = np.flatnonzero(weight > _LEAST_WEIGHT)
    columns = features.bent(features.columns)
    shown = group[len(item) :]
    beliefs = [
        _belief(columns, x, y, held_out[i], group, shown, RIDGES[i] * features.penalty) for i in used.tolist()
    ]
    return TruthModel(beliefs, weight[used] / weight[used].sum(), STEEPER, STEEPER_SD, known)


def _belief(
    columns: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    y: Floats,
    held_out: Floats,
    group: Ints,
    shown: Ints,
    penalty: Floats,
) -> Belief:
    """The regression with one penalty.

    ``columns`` (n, p) are those of the pool, ``x`` (m, p) and ``y`` those of the verdicts. ``shown``: the
    groups of the last rows, which are the pictures of the lessons.
    """
    beta = fit_logistic(x, y, penalty)
    p = special.expit(x @ beta)
    exact = x.astype(np.float64)
    curvature = (exact * (p * (1.0 - p))[:, None]).T @ exact + np.diag(penalty + 1e-6)
    scores = np.zeros((int(group.max()) + 1, x.shape[1]))
    np.add.at(scores, group, exact * (y - special.expit(held_out))[:, None])
    noise = (scores.T @ scores) * (len(scores) / max(len(scores) - 1, 1)) + np.diag(penalty)
    # how the gradient moves with the intercept of each picture
    first = len(y) - len(shown)
    pull = np.zeros_like(scores)
    np.add.at(pull, shown, exact[first:] * (p * (1.0 - p))[first:, None])
    moves = [
        columns @ np.linalg.solve(curvature, _root(part)).astype(np.float32)
        for part in (noise, pull.T @ pull)
    ]
    spread = picture_spread(held_out[first:], y[first:], shown)
    return Belief((columns @ beta.astype(np.float32)).astype(np.float64), moves[0], moves[1], spread)


def _root(covariance: Floats) -> Floats:
    """A matrix whose product with its transpose is the given one, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), np.float64)


def picture_spread(log_odds: Floats, yes: Floats, picture: Ints) -> Floats:
    """How likely each of ``SPREADS`` is, from how much pictures differ beyond what was predicted of them.

    Parameters
    ----------
    log_odds : (k,) predicted without the picture itself
    yes : (k,) in 0..1
    picture : (k,) int64

    The likelihood of a normal random intercept (integrated by Gauss and Hermite's rule) times a half-normal
    prior: that prior itself where there are no lessons. Returns (s,) float64, its sum is 1.
    """
    chance = np.log(np.gradient(SPREADS)) - 0.5 * (SPREADS / _USUAL_SPREAD) ** 2
    if len(yes):
        _, number = np.unique(picture, return_inverse=True)
        weights = np.log(_NODE_WEIGHTS / _NODE_WEIGHTS.sum())
        for i, spread in enumerate(SPREADS.tolist()):
            z = log_odds[:, None] + spread * _NODES
            told = np.zeros((int(number.max()) + 1, len(_NODES)))
            np.add.at(told, number, yes[:, None] * z - np.logaddexp(0.0, z))
            chance[i] += special.logsumexp(told + weights, axis=1).sum()
    return np.asarray(special.softmax(chance), np.float64)


def _detector_alone(features: Features, item: Ints, yes: Floats, known: Floats) -> TruthModel:
    """The detector's log-odds, shifted as the few verdicts say."""
    at = np.concatenate([features.detector[item], features.detector_lessons])
    shift, information = 0.0, 1.0 / _SHIFT_SD**2
    for _ in range(25 if len(yes) else 0):
        p = special.expit(at + shift)
        information = float((p * (1.0 - p)).sum()) + 1.0 / _SHIFT_SD**2
        shift += float((yes - p).sum() - shift / _SHIFT_SD**2) / information
    n = len(features.detector)
    moves = np.full((n, 1), 1.0 / np.sqrt(information), np.float32)
    nothing = Belief(
        features.detector + shift,
        moves,
        np.zeros((n, 0), np.float32),
        np.full(len(SPREADS), 1 / len(SPREADS)),
    )
    return TruthModel([nothing], np.ones(1), 0.0, _STRETCH_SD, known)
