"""What other constants of the certified policy would change, on pools that no figure is reported on.

    python -m bench.tuning                                    # every constant, half and double
    python -m bench.tuning --constant DOUBT=0.15 --plays 20
    python -m bench.tuning --pool nuclei.npz                  # its pictures of even number as well

Generated pools have seeds of 1000 and more; ``bench.economy`` reports on smaller seeds and on whole pools.
One line of JSON per figure: name, value (minutes to a finished set with the changed constant), unit, baseline
(as shipped), ratio, and the spread of both over plays.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import make_pool
from clustering.pool import Pool
from clustering.project_pool import ProjectPool
from clustering.search import _certificate, _plan, _sets, make_policy
from clustering.simulation import play

MODULES = (_plan, _sets, _certificate)
"""Modules that have read the constants of ``_plan``."""
CONSTANTS = ("DOUBT", "ANSWER_WORTH", "PATIENCE", "BELIEF", "OVERHEAD", "WORTH_AN_ATTEMPT", "UNIFORM")
FIRST_SEED = 1000
Truth = npt.NDArray[np.floating]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--constant", action="append", default=[], help="NAME=VALUE, repeatable")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 3000], help="generated pools")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="pool files with a column image")
    parser.add_argument("--plays", type=int, default=12)
    arguments = parser.parse_args()
    changes = [read_change(text) for text in arguments.constant] or [
        {name: factor * getattr(_plan, name)} for name in CONSTANTS for factor in (0.5, 2.0)
    ]
    pools: dict[str, list[tuple[ProjectPool, Truth]]] = {}
    for size in arguments.sizes:
        made = [make_pool(size, seed=FIRST_SEED + seed) for seed in range(3)]
        pools[f"generated.{size}"] = [(ProjectPool.single(pool), iou) for pool, iou in made]
    for path in arguments.pool:
        pools[path.stem] = [even_pictures(path)]
    for name, some in pools.items():
        shipped = minutes(some, arguments.plays, {})
        for change in changes:
            tried = minutes(some, arguments.plays, change)
            (constant, value), *_ = change.items()
            print(
                json.dumps(
                    {
                        "name": f"tuning.{name}.{constant}={value:g}",
                        "value": round(float(tried.mean()), 3),
                        "unit": "min",
                        "baseline": round(float(shipped.mean()), 3),
                        "ratio": round(float(tried.mean() / shipped.mean()), 3),
                        "spread": round(float(tried.std()), 3),
                        "baseline_spread": round(float(shipped.std()), 3),
                    }
                ),
                flush=True,
            )


def read_change(text: str) -> dict[str, float]:
    """NAME=VALUE as a change of one constant."""
    name, _, value = text.partition("=")
    if not hasattr(_plan, name):
        raise SystemExit(f"{name} is no constant of clustering.search._plan")
    return {name: float(value)}


def even_pictures(path: Path) -> tuple[ProjectPool, Truth]:
    """The rows of a pool file whose picture has an even number, all labels as one."""
    with np.load(path) as archive:
        rows = archive["image"] % 2 == 0
        pool = Pool(
            *(archive[name][rows].astype(np.float32) for name in ("embedding", "score", "quality", "extras"))
        )
        return ProjectPool.single(pool), archive["iou"][rows]


def minutes(
    pools: list[tuple[ProjectPool, Truth]], plays: int, change: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """(plays,) minutes of answers and drawing to a finished set, with the changed constants."""
    before = {
        (module, name): getattr(module, name)
        for module in MODULES
        for name in change
        if hasattr(module, name)
    }
    try:
        for module, name in before:
            setattr(module, name, change[name])
        found = []
        for seed in range(plays):
            project, iou = pools[seed % len(pools)]
            run = play(make_policy("certified"), project, iou, seed=FIRST_SEED + seed)
            found.append(60.0 * run.curve.hours_to_finish[-1])
        return np.array(found)
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)


if __name__ == "__main__":
    main()
