"""Trees of all sizes: seconds, peak memory, and how far the two-level tree is from the exact one.

    python -m bench.clustering                     # 5,000, 20,000, 100,000 and 1 million masks
    python -m bench.clustering --sizes 5000 20000  # a quick look

Each size runs in a process of its own, so that its peak memory can be measured. The baseline of seconds is
fastcluster alone on the same distances: measured at 20,000, elsewhere extrapolated by its n² law (the line
says so). CPU seconds stand beside wall seconds; where they differ much from cores × wall, the machine was
busy. One line of JSON per figure: name, value, unit, baseline, ratio (baseline / value: times faster).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

SIZES = (5_000, 20_000, 100_000, 1_000_000)
REFERENCE = 20_000
CLUSTERS = (100, 200, 500, 1_000, 2_000)
PAIRS = 200_000
TARGET_S = {1_000_000: 600.0}
TARGET_GB = {1_000_000: 8.0}

Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of masks (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="pools of 20,000 masks on which trees are compared (default: 3)"
    )
    parser.add_argument("--skip-agreement", action="store_true", help="only seconds and memory")
    parser.add_argument("--part", choices=["build", "fastcluster", "agreement"], help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part = {"build": _build, "fastcluster": _fastcluster, "agreement": _agreement}[options.part]
        print(json.dumps(part(options.n, options.seeds)))
        return
    alone = _child("fastcluster", REFERENCE)
    _line(
        "fastcluster alone",
        alone["seconds"],
        "s",
        n=REFERENCE,
        cpu_s=_short(alone["cpu_s"]),
        peak_gb=alone["peak_gb"],
    )
    for n in options.sizes:
        built = _child("build", n)
        law = alone["seconds"] * (n / REFERENCE) ** 2
        _line(
            "tree",
            built["seconds"],
            "s",
            baseline=law,
            baseline_is="fastcluster alone, measured"
            if n == REFERENCE
            else f"n² law from {REFERENCE}: extrapolated",
            n=n,
            cpu_s=_short(built["cpu_s"]),
            linkage=built["linkage"],
            depth=built["depth"],
            target=TARGET_S.get(n),
        )
        _line(
            "tree peak memory", built["peak_gb"], "GB", n=n, pool_gb=built["pool_gb"], target=TARGET_GB.get(n)
        )
        _line("node means, all nodes", built["means_seconds"], "s", n=n)
    if not options.skip_agreement:
        for row in _child("agreement", REFERENCE, options.seeds)["rows"]:
            _line(row.pop("name"), row.pop("value"), row.pop("unit"), n=REFERENCE, **row)


def _child(part: str, n: int, seeds: int = 1) -> dict[str, Any]:
    """Run one measurement in a fresh process and take its one line of JSON."""
    command = [sys.executable, "-m", "bench.clustering", "--part", part, "--n", str(n), "--seeds", str(seeds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} of {n} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _line(name: str, value: float, unit: str, *, baseline: float | None = None, **more: Any) -> None:
    ratio = None if baseline is None else round(baseline / value, 3)
    row = {"name": name, "value": _short(value), "unit": unit, "baseline": _short(baseline), "ratio": ratio}
    print(json.dumps(row | {key: item for key, item in more.items() if item is not None}), flush=True)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _build(n: int, seeds: int) -> dict[str, Any]:
    """Figures of the tree that the software builds by default."""
    from bench.pools import make_pool
    from clustering.trees.linkage import choose_linkage, grow_tree

    pool, _ = make_pool(n)
    grow_tree(make_pool(3000)[0], seed=0)  # imports and thread pools are not part of the figure
    pool_gb = _peak_gb()
    cpu, begin = time.process_time(), time.perf_counter()
    tree = grow_tree(pool, seed=0)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    begin = time.perf_counter()
    tree.means(pool.prior)
    return {
        "seconds": seconds,
        "cpu_s": cpu,
        "means_seconds": time.perf_counter() - begin,
        "linkage": choose_linkage(n).name,
        "depth": int(tree.depth().max()),
        "pool_gb": pool_gb,
        "peak_gb": _peak_gb(),
    }


def _fastcluster(n: int, seeds: int) -> dict[str, Any]:
    """Figures of the library call alone, on distances computed beforehand."""
    import fastcluster

    from bench.pools import make_pool
    from clustering.trees.distance import condensed_distances

    pool, _ = make_pool(n)
    condensed = condensed_distances(pool.embedding, pool.prior)
    cpu, begin = time.process_time(), time.perf_counter()
    fastcluster.linkage(condensed, method="complete", preserve_input=False)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"seconds": seconds, "cpu_s": cpu, "peak_gb": _peak_gb()}


def _agreement(n: int, seeds: int) -> dict[str, Any]:
    """How well the two-level tree agrees with the exact one, beside a yardstick.

    Complete linkage is unstable: even the exact tree of a random half of the pool, or of the pool with a
    little noise added, agrees only partly with the exact tree of the pool. These two are the yardstick.
    Agreement is the correlation of cophenetic heights (the height at which a pair is merged) over random
    pairs; ``fit`` is the correlation of cophenetic height and distance. All are means over ``seeds`` pools.
    """
    per_pool = [_compare(n, seed) for seed in range(seeds)]
    found = {name: float(np.mean([one[name] for one in per_pool])) for name in per_pool[0]}
    rows: list[dict[str, Any]] = [
        {
            "name": "two-level agreement with the exact tree",
            "value": found["agreement"],
            "unit": "cophenetic correlation",
            "yardstick_exact_of_noisy_pool": _short(found["noisy"]),
            "yardstick_exact_of_half_pool": _short(found["half"]),
        },
        {
            "name": "two-level fit to the distance",
            "value": found["fit"],
            "unit": "correlation of height with distance",
            "exact": _short(found["fit exact"]),
        },
    ]
    for clusters in CLUSTERS:
        masks, exact = found[f"masks {clusters}"], found[f"masks exact {clusters}"]
        rows.append(
            {
                "name": "two-level masks accepted by a universal cut",
                "value": masks,
                "unit": "masks",
                "exact": _short(exact),
                "share_of_exact": _short(masks / exact),
                "clusters_asked_about": clusters,
            }
        )
    return {"rows": [{**row, "pools": seeds} for row in rows]}


def _compare(n: int, seed: int) -> dict[str, float]:
    """All figures of one pool."""
    from bench.pools import CORRECT_IOU, make_pool
    from clustering.trees.distance import sample_standardisation
    from clustering.trees.linkage import ExactLinkage, TwoLevelLinkage
    from clustering.trees.tree import ClusterTree

    def exact_tree(embedding: npt.NDArray[np.float32], prior: npt.NDArray[np.float32]) -> ClusterTree:
        return ClusterTree.from_linkage(ExactLinkage().merges(embedding, prior))

    pool, iou = make_pool(n, seed=seed)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n, PAIRS)
    second = (first + rng.integers(1, n, PAIRS)) % n
    scales = sample_standardisation(pool.embedding, pool.prior, seed=seed)
    gap = np.sqrt(((pool.embedding[first] - pool.embedding[second]) ** 2).sum(axis=1, dtype=np.float64))
    distance = scales.appearance_scale * gap
    distance += scales.prior_scale * np.abs(pool.prior[first] - pool.prior[second])

    exact = exact_tree(pool.embedding, pool.prior)
    ours = ClusterTree.from_linkage(TwoLevelLinkage().merges(pool.embedding, pool.prior, seed=seed))
    noise = np.float32(0.1) * rng.standard_normal(pool.embedding.shape, dtype=np.float32)
    noisy = exact_tree(pool.embedding + noise, pool.prior)
    half = np.sort(rng.choice(n, n // 2, replace=False))
    halved = exact_tree(pool.embedding[half], pool.prior[half])
    inside = rng.integers(0, n // 2, (2, PAIRS))
    inside = inside[:, inside[0] != inside[1]]

    heights = _heights(exact, first, second)
    ours_heights = _heights(ours, first, second)
    found = {
        "agreement": _correlation(heights, ours_heights),
        "noisy": _correlation(heights, _heights(noisy, first, second)),
        "half": _correlation(_heights(exact, *half[inside]), _heights(halved, *inside)),
        "fit": _correlation(distance, ours_heights),
        "fit exact": _correlation(distance, heights),
    }
    for clusters in CLUSTERS:
        found[f"masks {clusters}"] = _accepted(ours, iou > CORRECT_IOU, clusters)
        found[f"masks exact {clusters}"] = _accepted(exact, iou > CORRECT_IOU, clusters)
    return found


def _heights(tree: Any, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> Floats:
    """Cophenetic heights of pairs of instances."""
    result: Floats = tree.node_height()[tree.common_ancestor(first, second)]
    return result


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _accepted(tree: Any, correct: npt.NDArray[np.bool_], clusters: int) -> int:
    """Masks in those of ``clusters`` clusters whose true purity is at least 0.85."""
    cut = tree.cut_into(clusters)
    pure = cut[tree.means(correct)[cut] >= 0.85]
    return int(tree.size[pure].sum())


if __name__ == "__main__":
    main()
