"""Plays: simulated runs of search policies on a project of known truth, over many seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from clustering.costs import Costs
from clustering.project_pool import ProjectPool
from clustering.search import make_policy
from clustering.simulation import Curve, People, Run, play, violations
from clustering.trees import ClusterTree, grow_tree
from ml_backend.errors import BadInput
from sync.lab.pool_files import KnownPool

__all__ = [
    "CURVE_COLUMNS",
    "FIGURES",
    "PlayPlan",
    "PolicyPlays",
    "curve_json",
    "known_project",
    "play_policies",
    "policy_options",
    "spread",
    "summary",
    "true_iou",
]

CURVE_COLUMNS = (
    "questions",
    "seconds",
    "masks",
    "correct",
    "unseen",
    "unseen_correct",
    "verified",
    "verified_correct",
    "hours_to_finish",
    "precision",
    "unseen_precision",
    "quality",
    "recall",
)
FIGURES: tuple[tuple[str, str, Callable[[Curve], float]], ...] = (
    ("hours_to_finish", "h", lambda curve: curve.hours_to_finish[-1]),
    ("questions", "questions", lambda curve: curve.questions[-1]),
    ("answer_seconds", "s", lambda curve: curve.seconds[-1]),
    ("masks", "masks", lambda curve: curve.masks[-1]),
    ("verified", "masks", lambda curve: curve.verified[-1]),
    ("unseen", "masks", lambda curve: curve.unseen[-1]),
    ("recall", "share", lambda curve: curve.recall[-1]),
    ("precision", "share", lambda curve: curve.precision[-1]),
    ("unseen_precision", "share", lambda curve: curve.unseen_precision[-1]),
    ("sq", "IoU", lambda curve: curve.quality[-1]),
    ("masks_per_question", "masks", lambda curve: _ratio(curve.masks[-1], curve.questions[-1])),
    ("masks_per_second", "masks", lambda curve: _ratio(curve.masks[-1], curve.seconds[-1])),
)
"""What is reported of every play when it is over: name, unit, and how to read it from the curve."""
_COST_OPTIONS = ("question_s", "sheet_s", "sheet_mask_s", "drawn_mask_s")


@dataclass(frozen=True, slots=True)
class PlayPlan:
    """How policies are simulated.

    Attributes
    ----------
    purity : promised purity of delivered masks
    people : how people err; None = never
    seeds : plays per policy
    budget : most questions; None = no limit
    batch : questions between two steps of the policy; None = depends on the size of the pool
    costs : human seconds
    """

    purity: float = 0.85
    people: People | None = None
    seeds: int = 10
    budget: int | None = None
    batch: int | None = None
    costs: Costs = field(default_factory=Costs)


@dataclass(frozen=True, slots=True)
class PolicyPlays:
    """The plays of one policy: the curve of each seed, and figures over the seeds."""

    options: Mapping[str, Any]
    curves: Sequence[Curve]
    summary: Mapping[str, Any]


def policy_options(name: str, given: Mapping[str, Any], plan: PlayPlan) -> dict[str, Any]:
    """Options of one policy: what the plan asks for as far as the policy knows it, overruled by ``given``.

    A key of ``given`` is an option of all policies, or ``policy.option`` for one. Raises BadInput when the
    policy does not know an option or refuses its value.
    """
    costs = plan.costs
    seconds = (costs.question, costs.sheet, costs.sheet_mask, costs.drawn_mask)
    wanted: dict[str, Any] = dict(zip(_COST_OPTIONS, seconds, strict=True))
    if plan.people is not None:
        noise = plan.people.stated
        wanted |= {"sensitivity": noise.sensitivity, "specificity": noise.specificity}
    wanted |= {"purity": plan.purity, "accept": plan.purity}
    chosen = {option: value for option, value in wanted.items() if _knows(name, option, value)}
    for key, value in given.items():
        owner, _, option = key.rpartition(".")
        if owner in ("", name):
            chosen[option] = value
    try:
        make_policy(name, **chosen)
    except (TypeError, ValueError) as error:
        raise BadInput(str(error), field="policy") from error
    return chosen


def _knows(name: str, option: str, value: Any) -> bool:
    try:
        make_policy(name, **{option: value})
    except TypeError:
        return False
    except ValueError as error:
        raise BadInput(str(error), field="policy") from error
    return True


def known_project(known: Sequence[KnownPool], trees: Sequence[ClusterTree] | None = None) -> ProjectPool:
    """The pools of all classes as one project. Raises BadInput when they do not fit each other."""
    try:
        return ProjectPool([entry.pool for entry in known], trees)
    except ValueError as error:
        raise BadInput(str(error), field="pool") from error


def true_iou(known: Sequence[KnownPool]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n,) float64 true IoU of all rows of ``known_project``."""
    return np.concatenate([np.asarray(entry.iou, np.float64) for entry in known])


def play_policies(
    known: Sequence[KnownPool],
    policies: Mapping[str, Mapping[str, Any]],
    plan: PlayPlan,
    *,
    report: Callable[[float, str], None] = lambda share, line: None,
) -> dict[str, PolicyPlays]:
    """Play every policy (name -> options) with every seed, all classes together as one project.

    ``report`` is called with the share done (0..1) and a line about it. Raises BadInput without a pool.
    """
    if not known:
        raise BadInput("the file holds no instance", field="pool", hint="`groundswell pool` writes one")
    trees = []
    for entry in known:
        report(0.0, f"tree of {entry.label}, {len(entry.pool)} instances")
        trees.append(grow_tree(entry.pool, seed=0))
    project, iou = known_project(known, trees), true_iou(known)
    played: dict[str, PolicyPlays] = {}
    total = len(policies) * plan.seeds
    for name, options in policies.items():
        runs = []
        for seed in range(plan.seeds):
            done = len(played) * plan.seeds + seed
            report(done / total, f"{name}, play {seed + 1} of {plan.seeds}")
            runs.append(
                play(
                    make_policy(name, **options),
                    project,
                    iou,
                    seed=seed,
                    people=plan.people,
                    budget=plan.budget,
                    batch=plan.batch,
                    costs=plan.costs,
                )
            )
        played[name] = PolicyPlays(options, [run.curve for run in runs], summary(runs, plan.purity))
    return played


def curve_json(curve: Curve) -> dict[str, list[float | None]]:
    """The curve as plain columns; None where a value is not defined (JSON knows no NaN)."""
    return {
        name: [None if v != v else round(float(v), 6) for v in getattr(curve, name).tolist()]
        for name in CURVE_COLUMNS
    }


def summary(runs: Sequence[Run], purity: float) -> dict[str, Any]:
    """The figures of ``FIGURES`` over plays, and how many plays broke the promise.

    A promise is broken if at any step the masks delivered so far were less pure than promised: those that
    nobody saw (``promise_broken_unseen``), or all of them (``promise_broken``).
    """
    figures: dict[str, Any] = {
        name: spread([float(read(run.curve)) for run in runs]) for name, _, read in FIGURES
    }
    figures["promise_broken"] = _broken([run.worst_precision for run in runs], purity)
    figures["promise_broken_unseen"] = _broken([run.worst_unseen for run in runs], purity)
    return figures


def _broken(worst: Sequence[float], purity: float) -> dict[str, float]:
    count, plays, low, high = violations(worst, purity)
    return {"count": count, "plays": plays, "share": count / plays, "share_low": low, "share_high": high}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over plays and its 95 % interval (Student's t); plays without the value are left out.

    The interval of a single play is not known: None.
    """
    told = np.array([value for value in values if not np.isnan(value)])
    if not len(told):
        return {"mean": None, "low": None, "high": None}
    mean = float(told.mean())
    if len(told) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(told) - 1) * told.std(ddof=1) / np.sqrt(len(told)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
