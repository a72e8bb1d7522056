"""What it will take to certify a pool: the policy is played on truths that fit what is known.

The truths come from ``truth_draws``. Each play is one way in which the review may go: it costs questions and
minutes, and leaves some good masks undelivered, which people then draw. A play takes a second or more, a draw
takes none: so ``chosen_truths`` draws many, sorts them by how much of the pool can be accepted unseen, and
keeps the middle one of each of some equal parts (stratified sampling: Cochran 1977, chapter 5). So the plays
hold the bad luck of one in ten as well: a review that certifies nothing costs several times as much as one
that does, and a plain sample of eight would often have neither.

The spread over plays gives the intervals. They are prediction intervals of one further play, from the normal
distribution of the logarithm (Hahn and Meeker 1991, section 4.7), since eight plays are too few for
quantiles; they never leave out a play.

What no play knows is how people really answer and how long they take; ``costs`` are assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from clustering.answers import SearchPolicy, Stream
from clustering.arrays import Bools, Ints
from clustering.costs import Costs
from clustering.project_pool import ProjectPool
from clustering.simulation import People, play
from clustering.truth_draws import TruthModel

__all__ = ["MISFIT", "Cost", "Interval", "acceptable", "chosen_truths", "one_play", "prediction_interval"]

MISFIT = 0.1
"""Standard deviation of the logarithm that is added to that of the plays; ``python -m bench.preview``
measures whether intervals hold with it."""
_DRAWS = 200
"""Truths from which those to be played are chosen."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A forecast: the median of the plays, and an interval that one further play falls into."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one play took, and what it left.

    Attributes
    ----------
    questions, seconds : asked, and the time of the answers
    unseen, verified : good masks delivered without and with a look at them
    lost : good masks of the pool that are not delivered
    undecided : masks that the policy neither accepted nor rejected
    """

    questions: int
    seconds: float
    unseen: int
    verified: int
    lost: int
    undecided: int


def one_play(
    policy: SearchPolicy,
    project: ProjectPool,
    good: Bools,
    *,
    seed: int,
    costs: Costs,
    people: People | None = None,
    free: Bools | None = None,
    certificate: int = 1,
    larger: float = 1.0,
) -> Cost:
    """Play a policy on one truth.

    Parameters
    ----------
    good : (n,) which masks are good
    seed : of the policy and of the played people
    costs, people, free, certificate : see ``clustering.simulation.play``
    larger : the pool is a random sample of one that is so many times as large. The questions that teach and
        test do not grow with a large pool, the looks at single masks do
    """
    run = play(
        policy,
        project,
        good.astype(np.float64),
        seed=seed,
        people=people,
        batch=max(60, len(project) // 25),
        costs=costs,
        free=free,
        certificate=certificate,
    )
    label, decision, log = run.step.label, run.step.decision, run.log
    paid = np.ones(len(log), bool) if free is None else ~free[log.item]
    harvested = int((paid & (log.stream == Stream.HARVEST)).sum())
    asked, seconds = int(run.curve.questions[-1]), float(run.curve.seconds[-1])
    growth = 1.0 + (larger - 1.0) * harvested / max(asked, 1)
    delivered = good & (label > 0)
    unseen = int((delivered & (decision >= 0)).sum())
    return Cost(
        questions=round(asked * growth),
        seconds=seconds * growth,
        unseen=round(unseen * larger),
        verified=round((int(delivered.sum()) - unseen) * larger),
        lost=round(int((good & ~delivered).sum()) * larger),
        undecided=round(int((label == 0).sum()) * larger),
    )


def acceptable(good: Bools, order: Ints, purity: float) -> int:
    """How many masks can be accepted in this order such that a share ``purity`` of them is good.

    Parameters
    ----------
    good : (n,) one truth
    order : (n,) rows, the most promising first
    """
    enough = np.cumsum(good[order]) >= purity * np.arange(1, len(order) + 1)
    return int(np.flatnonzero(enough)[-1]) + 1 if enough.any() else 0


def chosen_truths(
    model: TruthModel, count: int, *, purity: float | None, seed: int, draws: int = _DRAWS
) -> list[Bools]:
    """``count`` truths that stand for equal shares of all that is possible, the worst first.

    They differ by ``acceptable``; by how many masks are good where nothing is promised (``purity`` None).
    Memory O(n · count), time O(n log n + n · draws · r) with r as in ``truth_draws.Belief``.
    """
    order = np.argsort(-model.centre, kind="stable").astype(np.int64)
    worth = []
    for number in range(max(draws, count)):
        good = model.draw(np.random.default_rng([seed, 0x7247, number]))
        worth.append(int(good.sum()) if purity is None else acceptable(good, order, purity))
    ranked = np.argsort(worth, kind="stable")
    places = ((np.arange(count) + 0.5) * len(ranked) / count).astype(np.int64)
    return [model.draw(np.random.default_rng([seed, 0x7247, number])) for number in ranked[places].tolist()]


def prediction_interval(
    values: Sequence[float], *, confidence: float = 0.9, most: float = np.inf
) -> Interval:
    """Where the value of the real play will lie, from those of at least two plays (0 or more).

    No value can be above ``most``. ``MISFIT`` is added to the spread of the plays, and at both ends to the
    plays themselves: no play knows what the drawn truths have wrong in common.
    """
    logs = np.log1p(np.asarray(values, np.float64))
    n = len(logs)
    if n < 2:
        raise ValueError("an interval needs at least two plays")
    spread = np.sqrt(logs.var(ddof=1) * (1.0 + 1.0 / n) + MISFIT**2)
    reach = stats.t.ppf(0.5 + confidence / 2.0, n - 1) * spread
    mean, middle = float(logs.mean()), float(np.median(logs))
    low, high = min(mean - reach, logs.min() - MISFIT), max(mean + reach, logs.max() + MISFIT)
    return Interval(*(min(most, float(np.expm1(max(0.0, value)))) for value in (middle, low, high)))
