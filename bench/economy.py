"""Human hours to a finished, pure set: the certified policy beside the published rule and simpler ones.

    python -m bench.economy                              # generated pools of all kinds, 5,000 masks each
    python -m bench.economy --kinds weak --sizes 100000 1000000 --plays 3
    python -m bench.economy --kinds --pool cells.npz     # pools written by `groundswell pool`
    python -m bench.economy --people 0.95,0.9            # people who err
    python -m bench.economy --costs                      # what other costs of an answer would change

Every policy is played on the same pools with the same seeds, all labels of a pool as one project. A *play*
goes on until the policy asks nothing more. Hours to the finished set are those of all answers, and 80 s for
each good mask of the pool that was not delivered. The rows (``POLICIES``): the published rule (Papadopoulos
et al., ICCV 2021) as published, with contact sheets, and with sheets and then asking about the rest best
first while that pays; a score scaled by a random sample and cut, with and without asking about the rest;
verifying everything best first; PAC labels (Candès, Ilyas & Zrnic 2025).

One line of JSON per figure: name, value, unit, baseline (the published rule), ratio = value / baseline, and
the 95 % interval over plays. A promise counts as broken when, at any step of a play, the delivered masks that
nobody saw (``promise_broken_unseen``) or all delivered masks (``promise_broken``) were less pure than
promised; its interval is that of Clopper and Pearson. ``good_masks_at_...`` are the good masks delivered when
the policy has had as many questions (seconds) as the certified policy takes in all, or a share of them. A
table for people goes to stderr, or to ``--table``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.pools import KINDS, make_labels
from clustering.costs import Costs
from clustering.project_pool import ProjectPool
from clustering.search import make_policy
from clustering.simulation import Curve, People, Run, play
from clustering.trees import ClusterTree, grow_tree
from sync.lab.policy_plays import (
    FIGURES,
    PlayPlan,
    known_project,
    policy_options,
    spread,
    summary,
    true_iou,
)
from sync.lab.pool_files import KnownPool, read_pool

OURS, BASELINE = "certified", "original"
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("certified", {}),
    BASELINE: ("original", {}),
    "original+sheets": ("original", {"sheets": True}),
    "original+sheets+finish": ("original", {"sheets": True, "finish": True}),
    "platt": ("platt", {}),
    "platt+finish": ("platt", {"finish": True}),
    "verify-all": ("verify-all", {}),
    "pac-labels": ("pac-labels", {}),
}
"""Row of the tables -> policy and options."""
COSTS: dict[str, Costs] = {
    "1.4 a question, sheet 1.5 + 0.4 a mask": Costs(),
    "sheet 1 + 0.25 a mask": Costs(sheet=1.0, sheet_mask=0.25),
    "sheet 2 + 0.7 a mask": Costs(sheet=2.0, sheet_mask=0.7),
    "no gain by sheets": Costs(sheet=0.0, sheet_mask=1.4),
}
"""What an answer may cost, in seconds."""
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the certified policy's questions (seconds) at which curves are compared."""
POOL_SEEDS = 5
"""Generated pools per kind and size, over which plays are spread; a single one where trees take minutes."""


@dataclass(frozen=True, slots=True)
class Field:
    """One project of known truth."""

    project: ProjectPool
    iou: np.ndarray[Any, np.dtype[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="generated pools"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[5_000], help="masks of generated pools")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="pool files to play on as well")
    parser.add_argument(
        "--pictures", choices=["all", "odd", "even"], default="all", help="pictures of pool files to play on"
    )
    parser.add_argument("--policies", nargs="*", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--plays", type=int, default=20, help="plays per policy")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first generated pool")
    parser.add_argument("--people", help="how people err: P(yes|good),P(no|bad); default: never")
    parser.add_argument("--lenient", type=float, help="P(no|bad) where the true IoU is 0.65 or more")
    parser.add_argument("--purity", type=float, default=0.85, help="promised purity")
    parser.add_argument("--costs", action="store_true", help="play with other costs of an answer, too")
    parser.add_argument("--trees", type=Path, help="folder to keep the trees of generated pools in")
    parser.add_argument("--table", type=Path, help="file to append the table to")
    parser.add_argument("--quick", action="store_true", help="two kinds, 1,500 masks, 3 plays")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.kinds, arguments.sizes, arguments.plays = ["strong", "weak"], [1_500], 3
    people = People()
    if arguments.people:
        sensitivity, specificity = (float(part) for part in arguments.people.split(","))
        people = People(
            sensitivity=sensitivity, specificity=specificity, near_miss_specificity=arguments.lenient
        )
    for name, fields in pools(arguments):
        for told, costs in COSTS.items() if arguments.costs else list(COSTS.items())[:1]:
            plan = PlayPlan(
                purity=arguments.purity,
                people=None if people == People() else people,
                seeds=arguments.plays,
                costs=costs,
            )
            full = f"{name}.{told}" if arguments.costs else name
            table = compare(full, fields, arguments.policies, plan)
            if arguments.table:
                with arguments.table.open("a") as file:
                    file.write(table)
            else:
                sys.stderr.write(table)


def pools(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Field]]]:
    """Name and projects of each pool to play on; trees are grown only where a policy reads them."""
    needs_trees = any(POLICIES[row][0] == "original" for row in arguments.policies)
    for size in arguments.sizes:
        for kind in arguments.kinds:
            seeds = range(
                arguments.first_seed,
                arguments.first_seed + min(arguments.plays, POOL_SEEDS if size < 50_000 else 1),
            )
            yield (
                f"{kind}.{size}",
                [generated(kind, size, seed, arguments.trees, trees=needs_trees) for seed in seeds],
            )
    for path in arguments.pool:
        known = read_pool(path)
        if arguments.pictures != "all":
            odd = int(arguments.pictures == "odd")
            known = [entry.take(pictures(entry) % 2 == odd) for entry in known]
        trees = [grow_tree(entry.pool, seed=0) for entry in known] if needs_trees else None
        name = path.stem if arguments.pictures == "all" else f"{path.stem}.{arguments.pictures}"
        yield name, [Field(known_project(known, trees), true_iou(known))]


def pictures(entry: KnownPool) -> np.ndarray[Any, np.dtype[np.int64]]:
    if entry.image is None:
        raise SystemExit("the pool file has no column image: --pictures cannot be used")
    return entry.image


def generated(kind: str, size: int, seed: int, folder: Path | None, *, trees: bool) -> Field:
    made = make_labels(kind, size, seed=seed)
    iou = np.concatenate([part.iou for part in made]).astype(np.float64)
    pools = [part.pool for part in made]
    if not trees:
        return Field(ProjectPool(pools), iou)
    grown = []
    for number, pool in enumerate(pools):
        kept = None if folder is None else folder / f"tree-{kind}-{size}-{seed}-{number}.npz"
        if kept is not None and kept.exists():
            grown.append(ClusterTree.load(kept))
            continue
        grown.append(grow_tree(pool, seed=0))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            grown[-1].save(kept)
    return Field(ProjectPool(pools, grown), iou)


def compare(name: str, fields: Sequence[Field], rows: Sequence[str], plan: PlayPlan) -> str:
    """Play all rows on one pool and print their figures; returns the table for people."""
    runs: dict[str, list[Run]] = {}
    slowest: dict[str, float] = {}
    for row in rows:
        policy, more = POLICIES[row]
        options = policy_options(policy, more, plan)
        begin = time.perf_counter()
        runs[row] = [played(policy, options, fields[s % len(fields)], s, plan) for s in range(plan.seeds)]
        slowest[row] = (time.perf_counter() - begin) / plan.seeds
    figures = {row: summary(made, plan.purity) for row, made in runs.items()}
    base = figures.get(BASELINE, {})
    for row, told in figures.items():
        for figure, unit, _ in FIGURES:
            baseline = base[figure]["mean"] if base else None
            line(f"{name}.{row}.{figure}", told[figure]["mean"], unit, baseline, **bounds(told[figure]))
        for figure in ("promise_broken_unseen", "promise_broken"):
            one = told[figure]
            line(
                f"{name}.{row}.{figure}",
                one["share"],
                "share of plays",
                base[figure]["share"] if base else None,
                low=one["share_low"],
                high=one["share_high"],
                plays=one["plays"],
            )
        line(f"{name}.{row}.seconds_per_play", slowest[row], "s", slowest.get(BASELINE))
    if OURS in runs:
        equal_effort(name, runs)
    return table(name, figures)


def played(policy: str, options: Mapping[str, Any], field: Field, seed: int, plan: PlayPlan) -> Run:
    return play(
        make_policy(policy, **options),
        field.project,
        field.iou,
        seed=seed,
        people=plan.people,
        batch=plan.batch,
        costs=plan.costs,
    )


def equal_effort(name: str, runs: Mapping[str, Sequence[Run]]) -> None:
    """Good masks delivered by every policy when it has had as many questions, or seconds, as ours."""
    for by, column in (("questions", "questions"), ("seconds", "seconds")):
        totals = [float(getattr(run.curve, column)[-1]) for run in runs[OURS]]
        for share in SHARES:
            value = {
                row: [at(run.curve, by, share * total) for run, total in zip(made, totals, strict=True)]
                for row, made in runs.items()
            }
            baseline = spread(value[BASELINE])["mean"] if BASELINE in value else None
            for row, masks in value.items():
                mean = spread(masks)
                line(
                    f"{name}.{row}.good_masks_at_{share:g}_of_our_{by}",
                    mean["mean"],
                    "masks",
                    baseline,
                    **bounds(mean),
                )


def at(curve: Curve, by: str, limit: float) -> float:
    if by == "questions":
        return curve.at("correct", questions=limit)
    return curve.at("correct", seconds=limit)


def table(name: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row per policy."""
    lines = [
        f"\n### {name}\n",
        "| policy | hours to finish | questions | answer min | masks | unseen | recall | precision "
        "| of unseen | broken unseen | broken all |",
        "| --- " * 11 + "|",
    ]
    for row, told in figures.items():
        hours = told["hours_to_finish"]
        half = "" if hours["high"] is None else f" ±{hours['high'] - hours['mean']:.2f}"
        unseen, every = told["promise_broken_unseen"], told["promise_broken"]
        cells = [
            row,
            f"{hours['mean']:.2f}{half}",
            f"{told['questions']['mean']:.0f}",
            f"{told['answer_seconds']['mean'] / 60:.1f}",
            f"{told['masks']['mean']:.0f}",
            f"{told['unseen']['mean']:.0f}",
            *(
                "–" if told[figure]["mean"] is None else f"{told[figure]['mean']:.3f}"
                for figure in ("recall", "precision", "unseen_precision")
            ),
            *(
                f"{one['count']}/{one['plays']} [{one['share_low']:.2f}, {one['share_high']:.2f}]"
                for one in (unseen, every)
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def bounds(figure: Mapping[str, float | None]) -> dict[str, float | None]:
    return {"low": _plain(figure["low"]), "high": _plain(figure["high"])}


def line(name: str, value: float | None, unit: str, baseline: float | None, **more: Any) -> None:
    ratio = value / baseline if value is not None and baseline else None
    fixed = {"name": f"economy.{name}", "value": _plain(value), "unit": unit, "baseline": _plain(baseline)}
    print(json.dumps({**fixed, "ratio": _plain(ratio), **more}), flush=True)


def _plain(number: float | None) -> float | None:
    return None if number is None or not np.isfinite(number) else round(float(number), 4)


if __name__ == "__main__":
    main()
