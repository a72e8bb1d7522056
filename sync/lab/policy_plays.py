"""Plays: simulated runs of search policies on a pool with known truth, over many seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clustering.evidence.answer_noise import Noise
from clustering.search import make_policy
from clustering.simulation import Costs, Curve, Run, merge_curves, play, violations
from clustering.trees.linkage import grow_tree
from clustering.trees.tree import ClusterTree
from ml_backend.errors import BadInput
from sync.lab.pool_files import KnownPool

__all__ = ["CURVE_COLUMNS", "PlayPlan", "PolicyPlays", "curve_json", "play_policies", "policy_options"]

CURVE_COLUMNS = (
    "questions",
    "hours",
    "masks",
    "precision",
    "propagated_precision",
    "quality",
    "recall",
)


@dataclass(frozen=True, slots=True)
class PlayPlan:
    """How policies are simulated.

    ``purity`` is the promised purity of accepted masks; ``noise`` how the worker errs (None: never);
    ``budget`` the most questions per class (None: no limit); ``batch`` the questions between two looks of the
    policy.
    """

    purity: float = 0.85
    noise: Noise | None = None
    seeds: int = 10
    budget: int | None = None
    batch: int = 60
    costs: Costs = field(default_factory=Costs)


@dataclass(frozen=True, slots=True)
class PolicyPlays:
    """The plays of one policy: a curve per seed over all classes, and figures over the seeds."""

    options: Mapping[str, Any]
    curves: Sequence[Curve]
    summary: Mapping[str, Any]


def policy_options(name: str, given: Mapping[str, Any], plan: PlayPlan) -> dict[str, Any]:
    """Options of one policy: what the plan asks for, overruled by ``given``.

    A key of ``given`` is an option of all policies, or ``policy.option`` for one. Raises BadInput when the
    policy does not know an option or refuses its value.
    """
    chosen: dict[str, Any] = {"purity": plan.purity} if name == "certified" else {"accept": plan.purity}
    if name == "certified" and plan.noise is not None:
        chosen |= {"sensitivity": plan.noise.sensitivity, "specificity": plan.noise.specificity}
    for key, value in given.items():
        owner, _, option = key.rpartition(".")
        if owner in ("", name):
            chosen[option] = value
    try:
        make_policy(name, **chosen)
    except (TypeError, ValueError) as error:
        raise BadInput(str(error), field="policy") from error
    return chosen


def play_policies(
    known: Sequence[KnownPool],
    policies: Mapping[str, Mapping[str, Any]],
    plan: PlayPlan,
    *,
    report: Callable[[float, str], None] = lambda share, line: None,
) -> dict[str, PolicyPlays]:
    """Play every policy (name -> options) with every seed on every class.

    ``report`` is called with the share done (0..1) and a line about it. Raises BadInput without a pool.
    """
    if not known:
        raise BadInput("the file holds no instance", field="pool", hint="`groundswell pool` writes one")
    trees = []
    for entry in known:
        report(0.0, f"tree of {entry.label}, {len(entry.pool)} instances")
        trees.append(grow_tree(entry.pool, seed=0))
    played: dict[str, PolicyPlays] = {}
    total = len(policies) * plan.seeds
    for name, options in policies.items():
        runs = []
        for seed in range(plan.seeds):
            done = len(played) * plan.seeds + seed
            report(done / total, f"{name}, play {seed + 1} of {plan.seeds}")
            runs.append(_play_classes(name, options, known, trees, seed, plan))
        curves = [merge_curves([run.curve for run in classes]) for classes in runs]
        played[name] = PolicyPlays(options, curves, _summary(curves, runs, plan))
    return played


def curve_json(curve: Curve) -> dict[str, list[float | None]]:
    """The curve as plain columns; None where a value is not defined (JSON knows no NaN)."""
    return {
        name: [None if v != v else round(float(v), 6) for v in getattr(curve, name).tolist()]
        for name in CURVE_COLUMNS
    }


def _play_classes(
    name: str,
    options: Mapping[str, Any],
    known: Sequence[KnownPool],
    trees: Sequence[ClusterTree],
    seed: int,
    plan: PlayPlan,
) -> list[Run]:
    return [
        play(
            make_policy(name, **options),
            tree,
            entry.pool,
            entry.iou,
            seed=seed,
            noise=plan.noise,
            budget=plan.budget,
            batch=plan.batch,
            costs=plan.costs,
        )
        for entry, tree in zip(known, trees, strict=True)
    ]


def _summary(curves: Sequence[Curve], runs: Sequence[Sequence[Run]], plan: PlayPlan) -> dict[str, Any]:
    """Final values, mean over seeds with their range, and how often a class broke the promise."""
    worst = [run.worst_precision for classes in runs for run in classes]
    broken, plays, lower, upper = violations(worst, plan.purity)
    questions = [float(curve.questions[-1]) for curve in curves]
    masks = [float(curve.masks[-1]) for curve in curves]
    return {
        "questions": _spread(questions),
        "hours": _spread([float(curve.hours[-1]) for curve in curves]),
        "masks": _spread(masks),
        "masks_per_question": _spread(
            [m / q if q else float("nan") for m, q in zip(masks, questions, strict=True)]
        ),
        "hours_by_hand": _spread([m * plan.costs.drawn_mask / 3600.0 for m in masks]),
        "precision": _spread([float(curve.precision[-1]) for curve in curves]),
        "propagated_precision": _spread([float(curve.propagated_precision[-1]) for curve in curves]),
        "sq": _spread([float(curve.quality[-1]) for curve in curves]),
        "recall": _spread([float(curve.recall[-1]) for curve in curves]),
        "promise_broken": {"count": broken, "plays": plays, "share_low": lower, "share_high": upper},
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    told = [v for v in values if not np.isnan(v)]
    if not told:
        return {"mean": None, "low": None, "high": None}
    return {"mean": float(np.mean(told)), "low": float(min(told)), "high": float(max(told))}
