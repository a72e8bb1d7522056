"""Masks per question, true precision and kept promises: the published rule against the certified policy.

    python -m bench.economy                            # generated pools of 6,000, 100,000 and 1 million masks
    python -m bench.economy --sizes 6000 --seeds 200
    python -m bench.economy --pool cells.npz           # every class of a pool written by `groundswell pool`

Both policies play on the same trees with the same seeds, once with exact answers and once with workers of
sensitivity 0.95 and specificity 0.90. The published rule (Papadopoulos et al., ICCV 2021) needs 15 answers
per cluster and asks only for those that the cluster has not inherited. ``campaign`` is the rule as its
authors used it: a full new sample for nearly every cluster.

The certified policy ends purer than it promises, and the published rule less pure than its threshold. To
compare masks per question at equal true precision too, the certified policy plays again with another promise:
the lowest of a list with which it ends at least as precise as the published rule (``matched``).

One line of JSON per figure: name, value (certified), unit, baseline (published rule), ratio = value /
baseline. A promise counts as broken when the propagated masks were less pure than promised at any look of a
play.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import make_pool
from clustering.answers import AnswerLog, PolicyStep, SearchPolicy
from clustering.evidence import Noise
from clustering.pool import Pool
from clustering.search import make_policy
from clustering.simulation import Run, play, violations
from clustering.trees import ClusterTree, grow_tree
from sync.lab.pool_files import read_pool

SIZES = (6_000, 100_000, 1_000_000)
PURITY, DELTA = 0.85, 0.05
NOISES = {"exact": Noise(), "noisy": Noise(sensitivity=0.95, specificity=0.90)}
BATCH = {"certified": 60, "original": 450}
"""Questions per look. The published campaign asked about 30 clusters of 15 masks per round. In large pools
that would take hundreds of looks, so a hundredth of the pool is asked per look there. It does not change what
is asked in the end."""
POOL_SEEDS = 5
"""Generated pools per size, over which plays are spread; a single one where trees take minutes."""
MATCHING = (0.6, 0.65, 0.7, 0.75, 0.8, 0.825, 0.85, 0.875, 0.9, 0.95)
"""Promises to choose from for the comparison at equal precision."""
PILOTS = 10
"""Plays with which each of these promises is tried."""
FEW_SEEDS = {"certified": 100, "original": 3}
"""Plays per policy at a million masks, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Field:
    """One pool with its tree and the true IoU of its masks."""

    tree: ClusterTree
    pool: Pool
    iou: npt.NDArray[np.floating]


class Timed:
    """A policy that measures how long each of its steps takes."""

    def __init__(self, policy: SearchPolicy) -> None:
        self.name, self.policy, self.seconds = policy.name, policy, [0.0]

    def step(self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int) -> PolicyStep:
        begin = time.perf_counter()
        result = self.policy.step(tree, pool, log, budget=budget, seed=seed)
        self.seconds.append(time.perf_counter() - begin)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="sizes of generated pools")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="pool files to play on as well")
    parser.add_argument(
        "--seeds", type=int, help="plays per policy (default: 100; of the published rule 3 at a million)"
    )
    parser.add_argument("--noise", choices=[*NOISES, "both"], default="both", help="how played workers err")
    parser.add_argument("--trees", type=Path, help="folder to keep the trees of generated pools in")
    parser.add_argument("--quick", action="store_true", help="one size (6,000 masks), 20 plays")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.seeds = [SIZES[0]], arguments.seeds or 20
    asked: dict[int, float] = {}
    for size in arguments.sizes:
        fields = [
            generated(size, seed, arguments.trees) for seed in range(POOL_SEEDS if size < 50_000 else 1)
        ]
        summary = compare(
            f"generated.{size}", fields, arguments.seeds, arguments.noise, large=size >= 500_000
        )
        if "exact" in summary:
            asked[size] = summary["exact"]
    if len(asked) > 1:
        exponent = np.polyfit(np.log(list(asked)), np.log(list(asked.values())), 1)[0]
        # the target is to grow slower than the square root of the pool
        line("questions_growth_exponent", float(exponent), "power of the pool's size", 0.5)
    for path in arguments.pool:
        for known in read_pool(path):
            tree = grow_tree(known.pool, seed=0)
            field = Field(tree, known.pool, known.iou)
            compare(f"{path.stem}.{known.label}", [field], arguments.seeds, arguments.noise)


def generated(size: int, seed: int, trees: Path | None) -> Field:
    pool, iou = make_pool(size, seed=seed)
    kept = None if trees is None else trees / f"tree-{size}-{seed}.npz"
    if kept is not None and kept.exists():
        return Field(ClusterTree.load(kept), pool, iou)
    tree = grow_tree(pool, seed=0)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        tree.save(kept)
    return Field(tree, pool, iou)


def compare(
    name: str, fields: list[Field], seeds: int | None, noise_name: str, *, large: bool = False
) -> dict[str, float]:
    """Print all figures of one pool. Returns the questions of the certified policy, by kind of noise."""
    asked = {}
    for kind, noise in NOISES.items():
        if noise_name not in (kind, "both"):
            continue
        told = {} if noise.exact else {"sensitivity": noise.sensitivity, "specificity": noise.specificity}
        counts = {p: seeds or (FEW_SEEDS[p] if large else 100) for p in FEW_SEEDS}
        theirs, _ = plays(fields, "original", {"accept": PURITY}, noise, counts["original"])
        ours, slowest = plays(
            fields, "certified", {"purity": PURITY, "delta": DELTA, **told}, noise, counts["certified"]
        )
        report(f"{name}.{kind}", ours, theirs, PURITY, slowest)
        campaign, _ = plays(
            fields, "original", {"accept": PURITY, "reuse": False}, noise, min(3, counts["original"])
        )
        line(
            f"{name}.{kind}.campaign.masks_per_question",
            mean(ours, lambda run: run.masks_per_question),
            "masks",
            mean(campaign, lambda run: run.masks_per_question),
        )
        asked[kind] = mean(ours, lambda run: run.curve.questions[-1])
        precision = mean(theirs, lambda run: run.curve.precision[-1])
        pilots = min(3 if large else PILOTS, counts["certified"])
        for promise in MATCHING:
            options = {"purity": promise, "delta": DELTA, **told}
            pilot, _ = plays(fields, "certified", options, noise, pilots)
            if mean(pilot, lambda run: run.curve.precision[-1]) >= precision:
                break
        matched, slowest = plays(fields, "certified", options, noise, counts["certified"])
        report(f"{name}.{kind}.matched", matched, theirs, promise, slowest)
    return asked


def plays(
    fields: list[Field], policy: str, options: dict[str, Any], noise: Noise, seeds: int
) -> tuple[list[Run], float]:
    """The plays of one policy, spread over the pools, and the seconds of its slowest step after the first."""
    runs, slowest = [], 0.0
    for seed in range(seeds):
        field = fields[seed % len(fields)]
        timed = Timed(make_policy(policy, **options))
        batch = max(BATCH[policy], len(field.pool) // 100) if policy == "original" else BATCH[policy]
        run = play(timed, field.tree, field.pool, field.iou, seed=seed, noise=noise, batch=batch)
        slowest = max(slowest, *timed.seconds[2:], 0.0)
        runs.append(run)
    return runs, slowest


def report(name: str, ours: list[Run], theirs: list[Run], promise: float, slowest: float) -> None:
    figures: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
        ("masks_per_question", "masks", lambda run: run.masks_per_question),
        ("questions", "questions", lambda run: run.curve.questions[-1]),
        ("hours", "h", lambda run: run.curve.hours[-1]),
        ("masks", "masks", lambda run: run.curve.masks[-1]),
        ("precision", "share", lambda run: run.curve.precision[-1]),
        ("sq", "IoU", lambda run: run.curve.quality[-1]),
        ("recall", "share", lambda run: run.curve.recall[-1]),
    )
    for figure, unit, read in figures:
        line(f"{name}.{figure}", mean(ours, read), unit, mean(theirs, read), plays=len(ours))
    broken, count, low, high = violations([run.worst_precision for run in ours], promise)
    their_broken, their_count, *_ = violations([run.worst_precision for run in theirs], PURITY)
    line(
        f"{name}.promise_broken",
        broken / count,
        "share of plays",
        their_broken / their_count,
        plays=count,
        low=low,
        high=high,
        promise=promise,
        delta=DELTA,
    )
    unseen = violations([run.worst_propagated for run in ours], promise)[0] / count
    theirs_unseen = violations([run.worst_propagated for run in theirs], PURITY)[0] / their_count
    line(f"{name}.promise_broken_propagated", unseen, "share of plays", theirs_unseen, plays=count)
    line(f"{name}.slowest_look", slowest, "s", 1.0)


def mean(runs: list[Run], read: Callable[[Run], float]) -> float:
    values = np.array([read(run) for run in runs], np.float64)
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def line(name: str, value: float, unit: str, baseline: float, **more: Any) -> None:
    def plain(number: float) -> float | None:
        return None if not np.isfinite(number) else round(float(number), 4)

    ratio = value / baseline if baseline else float("nan")
    fixed = {"name": f"economy.{name}", "value": plain(value), "unit": unit, "baseline": plain(baseline)}
    print(json.dumps({**fixed, "ratio": plain(ratio), **more}), flush=True)


if __name__ == "__main__":
    main()
