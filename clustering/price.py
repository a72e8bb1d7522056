"""What it will take to certify a pool: the policy is played on truths that fit what is known.

The truths come from ``truth_draws``. Each play is one way in which the review may go: it costs questions and
minutes, and leaves some good masks undelivered, which people then draw. The spread over plays gives the
intervals. They are prediction intervals of one further play, from the normal distribution of the logarithm
(Hahn and Meeker 1991, section 4.7), since a dozen plays are too few for quantiles.

What no play knows is how people really answer and how long they take; ``costs`` are assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from clustering.answers import SearchPolicy, Stream
from clustering.arrays import Bools
from clustering.costs import Costs
from clustering.project_pool import ProjectPool
from clustering.simulation import People, play

__all__ = ["MISFIT", "Cost", "Interval", "one_play", "prediction_interval"]

MISFIT = 0.1
"""Standard deviation of the logarithm that is added to that of the plays; ``python -m bench.preview``
measures whether intervals hold with it."""


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


def prediction_interval(
    values: Sequence[float], *, confidence: float = 0.9, most: float = np.inf
) -> Interval:
    """Where the value of the real play will lie, from those of at least two plays (0 or more).

    No value can be above ``most``. ``MISFIT`` is added to the spread of the plays: no play knows what the
    drawn truths have wrong in common.
    """
    logs = np.log1p(np.asarray(values, np.float64))
    n = len(logs)
    if n < 2:
        raise ValueError("an interval needs at least two plays")
    spread = np.sqrt(logs.var(ddof=1) * (1.0 + 1.0 / n) + MISFIT**2)
    reach = stats.t.ppf(0.5 + confidence / 2.0, n - 1) * spread
    mean, middle = float(logs.mean()), float(np.median(logs))
    low, high = min(mean - reach, middle), max(mean + reach, middle)
    return Interval(*(min(most, float(np.expm1(max(0.0, value)))) for value in (middle, low, high)))
