"""What certifying a round's pool will take: the project's policy, played on truths that fit what is known.

See ``clustering.truth_draws`` and ``clustering.price``. Masks that people answered already keep their answer
and cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from clustering.answers import SearchPolicy, Stream, final_verdicts
from clustering.arrays import Floats, Ints
from clustering.costs import DRAWN_MASK_S, QUESTION_S, SHEET_MASK_S, SHEET_S, Costs
from clustering.price import Cost, chosen_truths, prediction_interval
from clustering.project_pool import Lessons, ProjectPool
from clustering.search.certified import Certified
from clustering.simulation import People
from clustering.truth_draws import TruthModel, fit_truth
from sync.report.preview_plays import Job, Stage, played
from sync.review.decide import certificate_seed
from sync.review.verdicts import ReviewLog
from sync.rounds.cluster import LabelPool
from sync.rounds.policies import build_policy, gold_is_counted
from sync.settings import Settings

__all__ = ["LARGEST_POOL", "PROMISES", "Price", "forecast_price", "sampled_pools"]

Report = Callable[[float, str], None]
PROMISES = (0.8, 0.85, 0.9)
"""Promised purities that are priced."""
LARGEST_POOL = 20_000
"""Masks that are played; of larger pools a random sample."""
_PLAYS, _PLAYS_OF_LARGE = 8, 6
_LARGE = 5_000
_USUAL_PEOPLE = (0.95, 0.9)
"""Sensitivity and specificity of people while gold has not shown them."""
_GOLD_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Price:
    """What a promise will cost. Every figure is a forecast with its 90 % interval: middle, low, high.

    Attributes
    ----------
    promise : purity of the masks that nobody sees; None where the policy promises none
    questions, minutes : still to be answered, and how long that takes
    unseen, verified : good masks that are delivered without and with a look at them
    lost : good masks of the pool that people will have to draw all the same
    undecided : masks that are neither accepted nor rejected in the end
    plays : number of plays, each standing for an equal share of what is possible
    nothing : in how many of them nothing was accepted unseen
    questions_then : what these took, the median; None where there was none
    """

    promise: float | None
    questions: tuple[float, float, float]
    minutes: tuple[float, float, float]
    unseen: tuple[float, float, float]
    verified: tuple[float, float, float]
    lost: tuple[float, float, float]
    undecided: tuple[float, float, float]
    plays: int
    nothing: int
    questions_then: float | None

    def as_json(self) -> dict[str, Any]:
        """Rounded for people: whole numbers, minutes with one decimal."""
        row: dict[str, Any] = {}
        for name, value in asdict(self).items():
            digits = 1 if name == "minutes" else None
            row[name] = [round(one, digits) for one in value] if isinstance(value, tuple) else value
        return row


def forecast_price(
    settings: Settings,
    pools: Sequence[LabelPool],
    lessons: Lessons | None,
    log: ReviewLog,
    *,
    round_number: int,
    plays: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    apart: bool = False,
    report: Report = lambda share, line: None,
) -> list[Price]:
    """Price of each of ``PROMISES`` (of the one policy where it promises nothing) for what is left to answer.

    ``plays`` per promise, default 8, of large pools 6. ``workers``: processes, default two where the machine
    has them; with ``apart`` no play runs in this process, whatever the size of the pool. Raises BadInput when
    the policy or its options are wrong.
    """
    items, verdicts = final_verdicts(log.log.take(log.log.stream != Stream.CARRIED))
    decided = verdicts != 0.5
    items, yes = items[decided], verdicts[decided].astype(np.float64)
    unseen = np.array(sorted(log.cannot_be_shown), np.int64)
    items = np.concatenate([items, unseen[~np.isin(unseen, items)]])
    yes = np.concatenate([yes, np.zeros(len(items) - len(yes))])
    policy = build_policy(settings)
    parts, items, yes, larger = sampled_pools(pools, items, yes, seed=seed)
    reads_trees = not isinstance(policy, Certified)
    trees = [pool.tree for pool in pools] if reads_trees and larger == 1.0 else None
    project = ProjectPool(parts, trees, lessons=lessons)
    free = np.zeros(len(project), bool)
    free[items] = True
    stage = Stage(project, free, _costs(settings), _people(settings, log), larger)
    count = plays or (_PLAYS if len(project) <= _LARGE else _PLAYS_OF_LARGE)
    model = fit_truth(project, items, yes, seed=seed)
    promises, jobs = _jobs(settings, policy, log, stage.people, round_number, model, count, seed)
    found: list[Cost] = []
    for number, cost in enumerate(played(stage, jobs, workers, apart=apart), start=1):
        found.append(cost)
        report(number / len(jobs), f"play {number} of {len(jobs)}: {cost.questions} questions")
    return [
        _price(promise, stage, found[at * count : (at + 1) * count]) for at, promise in enumerate(promises)
    ]


def sampled_pools(
    pools: Sequence[LabelPool], items: Ints, yes: Floats, *, seed: int
) -> tuple[list[Any], Ints, Floats, float]:
    """The columns of the pools, at most ``LARGEST_POOL`` rows of them, drawn at random.

    Returns them, the answered rows among them with their verdicts, and how many times as large the pool is.
    """
    sizes = [len(pool) for pool in pools]
    n = sum(sizes)
    if n <= LARGEST_POOL:
        return [pool.pool for pool in pools], items, yes, 1.0
    kept = np.sort(np.random.default_rng([seed, n]).choice(n, LARGEST_POOL, replace=False))
    place = np.full(n, -1, np.int64)
    place[kept] = np.arange(len(kept))
    parts, first = [], 0
    for pool, size in zip(pools, sizes, strict=True):
        rows = kept[(kept >= first) & (kept < first + size)] - first
        whole = pool.pool
        parts.append(
            replace(
                whole,
                embedding=whole.embedding[rows],
                score=whole.score[rows],
                quality=whole.quality[rows],
                extras=whole.extras[rows],
            )
        )
        first += size
    there = place[items] >= 0
    return parts, place[items[there]], yes[there], n / len(kept)


def _price(promise: float | None, stage: Stage, costs: Sequence[Cost]) -> Price:
    masks = round(len(stage.project) * stage.larger)
    # where answers are true, nobody is asked about a mask twice
    once = round(int((~stage.free).sum()) * stage.larger) if stage.people is None else np.inf

    without = [cost.questions for cost in costs if not cost.unseen]

    def of(values: Sequence[float], most: float = masks) -> tuple[float, float, float]:
        found = prediction_interval(values, most=most)
        return found.middle, found.low, found.high

    return Price(
        promise,
        of([cost.questions for cost in costs], once),
        of([cost.seconds / 60.0 for cost in costs], np.inf),
        of([cost.unseen for cost in costs]),
        of([cost.verified for cost in costs]),
        of([cost.lost for cost in costs]),
        of([cost.undecided for cost in costs]),
        len(costs),
        len(without),
        round(float(np.median(without))) if without else None,
    )


def _jobs(
    settings: Settings,
    policy: SearchPolicy,
    log: ReviewLog,
    people: People | None,
    round_number: int,
    model: TruthModel,
    plays: int,
    seed: int,
) -> tuple[list[float | None], list[Job]]:
    options = dict(settings.policy_options)
    if people is not None and isinstance(policy, Certified):
        options.pop("gold", None)
        options |= {"sensitivity": people.sensitivity, "specificity": people.specificity}
    name = next((name for name in ("purity", "accept") if hasattr(policy, name)), "")
    promises: list[float | None] = list(PROMISES) if name else [None]
    jobs = []
    for promise in promises:
        given = options if promise is None else {**options, name: promise}
        # a promise with other terms would be a new certificate, with a random sample of its own
        same = promise is None or promise == getattr(policy, name)
        number = log.certificate.number if same else log.certificate.number + 1
        start = certificate_seed(settings, round_number, number)
        truths = chosen_truths(model, plays, purity=promise, seed=seed)
        jobs += [Job(policy.name, given, start, number, truth) for truth in truths]
    return promises, jobs


def _costs(settings: Settings) -> Costs:
    given = settings.policy_options
    return Costs(
        question=given.get("question_s", QUESTION_S),
        sheet=given.get("sheet_s", SHEET_S),
        sheet_mask=given.get("sheet_mask_s", SHEET_MASK_S),
        drawn_mask=given.get("drawn_mask_s", DRAWN_MASK_S),
    )


def _people(settings: Settings, log: ReviewLog) -> People | None:
    """How people err: as the options or gold say, where answers are not taken as true."""
    given = settings.policy_options
    if "sensitivity" in given or "specificity" in given:
        return People(sensitivity=given.get("sensitivity", 1.0), specificity=given.get("specificity", 1.0))
    if not gold_is_counted(settings):
        return None
    yes, good, no, bad = log.gold
    if min(good, bad) < _GOLD_ENOUGH:
        return People(sensitivity=_USUAL_PEOPLE[0], specificity=_USUAL_PEOPLE[1])
    return People(
        sensitivity=max(0.55, (yes + 0.5) / (good + 1.0)), specificity=max(0.55, (no + 0.5) / (bad + 1.0))
    )
