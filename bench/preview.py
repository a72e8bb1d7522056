"""Does the price in a preview hold? Forecasts of questions and minutes against the real play, on known truth.

    python -m bench.preview                                    # generated pools of all kinds
    python -m bench.preview --kinds weak --sizes 20000 --seeds 100 101
    python -m bench.preview --kinds --pool cells.npz           # pools written by `groundswell pool`
    python -m bench.preview --truths --seeds 100 101 102       # only the truths, no plays: a second a case

A case is a pool and a seed: some pictures, drawn at random, are the test split (their masks are the lessons,
as in a project), the others the pool. The forecast knows the lessons alone. Then the policy is played on the
truth, once for each promise. One line of JSON per case and promise; the last lines say for each pool and for
all how often the 90 % interval held the real number (with the interval of Clopper and Pearson), and how wide
it was (upper by lower end, median). Promises of one case share their pool, so cases are what counts as
independent.

With ``--truths``: how many masks could be accepted unseen, the most promising first, such that the promise
holds. That is what the price hangs on. The line says the middle of 200 drawn truths, their 5 and 95 %
quantiles, and the real number; ``width`` is then the width of the interval as a share of the pool.

Generated pools have no pictures: 20 masks, drawn at random, make one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.pools import CORRECT_IOU, KINDS, make_labels
from clustering.arrays import Bools, Floats
from clustering.costs import Costs
from clustering.evidence import clopper_pearson
from clustering.pool import Pool
from clustering.price import Cost, acceptable, chosen_truths, one_play, prediction_interval
from clustering.project_pool import Lessons, ProjectPool
from clustering.search import make_policy
from clustering.truth_draws import fit_truth
from sync.lab.pool_files import read_pool
from sync.report.preview_price import PROMISES

MASKS_A_PICTURE = 20


@dataclass(frozen=True, slots=True)
class Case:
    """A project of known truth: its pool with lessons, and which masks of the pool are good."""

    project: ProjectPool
    good: Bools


@dataclass(frozen=True, slots=True)
class _Part:
    """One label: columns, true IoU and picture of each mask."""

    pool: Pool
    iou: Floats
    picture: np.ndarray[Any, np.dtype[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="generated pools"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_500], help="masks of generated pools")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="pool files with pictures")
    parser.add_argument("--tests", type=int, default=12, help="test pictures")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--promises", type=float, nargs="*", default=list(PROMISES))
    parser.add_argument("--plays", type=int, default=8, help="plays behind a forecast")
    parser.add_argument("--truths", action="store_true", help="only draw truths, play nothing")
    parser.add_argument("--quick", action="store_true", help="one kind, 600 masks, one seed, 3 plays")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.kinds, arguments.sizes, arguments.seeds, arguments.plays = ["strong"], [600], [0], 3
    held: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, seed, case in _cases(arguments):
        for promise in arguments.promises:
            row = (
                drawn_truths(case, promise, seed=seed)
                if arguments.truths
                else forecast(case, promise, plays=arguments.plays, seed=seed)
            )
            held[name].append(row)
            print(
                json.dumps({"name": f"preview/{name}", "seed": seed, "promise": promise, **row}), flush=True
            )
    every = [row for rows in held.values() for row in rows]
    for name, rows in [*held.items(), ("all", every)]:
        print(json.dumps({"name": f"preview/{name}/coverage", **coverage(rows)}), flush=True)


def _cases(arguments: argparse.Namespace) -> Iterator[tuple[str, int, Case]]:
    for kind in arguments.kinds:
        for size in arguments.sizes:
            for seed in arguments.seeds:
                yield f"{kind}-{size}", seed, generated(kind, size, tests=arguments.tests, seed=seed)
    for path in arguments.pool:
        for seed in arguments.seeds:
            yield path.stem, seed, stored(path, tests=arguments.tests, seed=seed)


def generated(kind: str, n: int, *, tests: int, seed: int) -> Case:
    """A case of about ``n`` masks and ``tests`` pictures of 20 masks."""
    rng = np.random.default_rng([seed, 7])
    whole = n + tests * MASKS_A_PICTURE
    made = make_labels(kind, whole, seed=seed)
    pictures = whole // MASKS_A_PICTURE
    parts = [
        _Part(one.pool, one.iou.astype(np.float64), rng.integers(0, pictures, len(one.pool))) for one in made
    ]
    return _case(parts, tests, seed)


def stored(path: Path, *, tests: int, seed: int) -> Case:
    """A case of a pool file, whose pictures are divided at random."""
    known = read_pool(path)
    if any(entry.image is None for entry in known):
        raise SystemExit(f"{path} does not say which picture each mask is on")
    parts = [
        _Part(one.pool, np.asarray(one.iou, np.float64), one.image) for one in known if one.image is not None
    ]
    return _case(parts, tests, seed)


def _case(parts: Sequence[_Part], tests: int, seed: int) -> Case:
    pictures = np.unique(np.concatenate([part.picture for part in parts]))
    chosen = np.random.default_rng([seed, 3]).choice(pictures, tests, replace=False)
    tested = [np.isin(part.picture, chosen) for part in parts]
    known = [_rows(part.pool, test) for part, test in zip(parts, tested, strict=True)]
    columns = {
        name: np.concatenate([getattr(pool, name) for pool in known])
        for name in ("embedding", "score", "quality", "extras")
    }
    good = [part.iou > CORRECT_IOU for part in parts]
    lessons = Lessons(
        Pool(**columns),
        np.repeat(np.arange(len(parts)), [len(pool) for pool in known]).astype(np.int64),
        np.concatenate([truth[test] for truth, test in zip(good, tested, strict=True)]),
        np.concatenate([part.picture[test] for part, test in zip(parts, tested, strict=True)]).astype(
            np.int64
        ),
    )
    pools = [_rows(part.pool, ~test) for part, test in zip(parts, tested, strict=True)]
    truth = np.concatenate([mine[~test] for mine, test in zip(good, tested, strict=True)])
    return Case(ProjectPool(pools, lessons=lessons), truth)


def _rows(pool: Pool, rows: Bools) -> Pool:
    return Pool(
        embedding=pool.embedding[rows],
        score=pool.score[rows],
        quality=pool.quality[rows],
        extras=pool.extras[rows],
    )


def forecast(case: Case, promise: float, *, plays: int, seed: int) -> dict[str, Any]:
    """The forecast of one promise beside what the real play took."""
    began = time.perf_counter()
    model = fit_truth(case.project, np.zeros(0, np.int64), np.zeros(0), seed=0)
    truths = chosen_truths(model, plays, purity=promise, seed=seed)
    policy = make_policy("certified", purity=promise)
    played = [one_play(policy, case.project, truth, seed=seed, costs=Costs()) for truth in truths]
    seconds = time.perf_counter() - began
    policy = make_policy("certified", purity=promise)
    real = one_play(policy, case.project, case.good, seed=seed, costs=Costs())
    row: dict[str, Any] = {"masks": len(case.project), "lessons": len(case.good)}
    assert case.project.lessons is not None
    row["lessons"] = len(case.project.lessons)
    for name, read in _FIGURES:
        # people do not err here, so nobody is asked about a mask twice
        most = len(case.project) if name == "questions" else np.inf
        found = prediction_interval([read(cost) for cost in played], most=most)
        row[name] = [round(found.middle, 1), round(found.low, 1), round(found.high, 1)]
        row[f"real_{name}"] = round(read(real), 1)
        row[f"played_{name}"] = [round(read(cost), 1) for cost in played]
    row["nothing_unseen"] = sum(cost.unseen == 0 for cost in played) / plays
    row["real_unseen"] = real.unseen
    return row | {"seconds": round(seconds, 1)}


def drawn_truths(case: Case, promise: float, *, seed: int, draws: int = 200) -> dict[str, Any]:
    """How many masks can be accepted at one promise: what the drawn truths say, and the truth."""
    model = fit_truth(case.project, np.zeros(0, np.int64), np.zeros(0), seed=0)
    order = np.argsort(-model.centre, kind="stable").astype(np.int64)
    rng = np.random.default_rng([seed, 98])
    found = [acceptable(model.draw(rng), order, promise) for _ in range(draws)]
    low, middle, high = np.quantile(found, [0.05, 0.5, 0.95])
    return {
        "masks": len(case.project),
        "acceptable": [round(float(middle), 1), round(float(low), 1), round(float(high), 1)],
        "real_acceptable": acceptable(case.good, order, promise),
    }


def _questions(cost: Cost) -> float:
    return float(cost.questions)


def _minutes(cost: Cost) -> float:
    return cost.seconds / 60.0


_FIGURES = (("questions", _questions), ("minutes", _minutes))


def coverage(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often the intervals held, how wide they were, and how far the middle was off (median ratio)."""
    found: dict[str, Any] = {"forecasts": len(rows)}
    for name in [name for name in ("questions", "minutes", "acceptable") if rows and name in rows[0]]:
        held = sum(row[name][1] <= row[f"real_{name}"] <= row[name][2] for row in rows)
        lower, upper = clopper_pearson(held, len(rows), alpha=0.025)
        found[name] = {
            "held": held,
            "share": round(held / max(len(rows), 1), 3),
            "interval": [round(float(lower), 3), round(float(upper), 3)],
            "width": round(float(np.median([_width(row, name) for row in rows])), 2),
            "forecast_by_real": round(
                float(np.median([row[name][0] / max(row[f"real_{name}"], 1e-9) for row in rows])), 3
            ),
        }
    return found


def _width(row: dict[str, Any], name: str) -> float:
    _, low, high = row[name]
    return float((high - low) / row["masks"] if name == "acceptable" else high / max(low, 1e-9))


if __name__ == "__main__":
    main()
