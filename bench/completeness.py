"""How often lower bounds on the share of objects found hold, and how high they are. Prints JSON lines.

    python -m bench.completeness                       # generated sets
    python -m bench.completeness --pool nuclei.npz     # and pools of `groundswell pool` (with image, objects)
    python -m bench.completeness --pool nuclei.npz --plays 100   # whole reviews instead of fixed cuts

k pictures are drawn as test pictures; the truth is the share found on the others, 300 at most. ``value`` is
the share of draws in which a bound holds, ``mean`` the mean bound, ``true`` the mean truth. ``extra picture``
is the bound in use; ``mean picture`` has an extra picture of mean size only; ``t`` is the ratio estimator
with Student's t, ``t, extra picture`` the same with an extra picture of mean size; ``log t`` is Student's t
for the logarithm of the share missed. With ``--plays`` a policy reviews the pictures that were not drawn,
taught by those that were, and the bound is about what it delivers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from clustering.answers import AnswerLog
from clustering.arrays import Floats
from clustering.completeness import KnownObjects, completeness, found_share
from clustering.pool import Pool
from clustering.project_pool import Lessons, ProjectPool
from clustering.search import make_policy

PICTURES = (5, 10, 18, 30, 60)
DELTA, GOOD_IOU, OTHERS = 0.05, 0.75, 300
Set = tuple[Floats, Floats]
"""objects found and all objects, by picture"""


def generated_sets() -> Iterator[tuple[str, Set]]:
    """2,000 pictures each, numbers of objects log-normal; how much of each picture is found."""
    rng = np.random.default_rng(1)
    n = 2000
    for spread in (0.5, 1.2):
        objects = np.maximum(1.0, np.exp(rng.normal(3.0, spread, n)).round())
        large = objects > np.quantile(objects, 0.95)
        shares = {
            "the same everywhere": np.full(n, 0.95),
            "from picture to picture": rng.beta(4.0, 1.0, n),
            "one in 20 missed": np.where(rng.random(n) < 0.05, 0.0, 0.98),
            "one in 50 missed": np.where(rng.random(n) < 0.02, 0.0, 1.0),
            "largest hardly found": np.where(large, 0.3, 0.97),
            "all found": np.ones(n),
        }
        for name, share in shares.items():
            found = rng.binomial(objects.astype(np.int64), share).astype(np.float64)
            yield f"generated, spread {spread}, {name}", (found, objects)


def real_sets(path: Path) -> Iterator[tuple[str, Set]]:
    """Pictures of a pool; masks count from a quantile of their prior on."""
    columns = np.load(path)
    objects = columns["objects"].sum(axis=1).astype(np.float64)
    prior = columns["score"] * columns["quality"]
    for quantile in (0.0, 0.3, 0.6):
        above = (columns["iou"] > GOOD_IOU) & (prior >= np.quantile(prior, quantile))
        found = np.bincount(columns["image"][above], minlength=len(objects)).astype(np.float64)
        yield f"{path.stem}, best {1.0 - quantile:.0%}", (np.minimum(found, objects), objects)


def extra_picture(found: Floats, objects: Floats, others: int) -> float:
    bound = found_share(found, objects, others=others, delta=DELTA, draws=1000)
    return 0.0 if bound is None else bound.lower


def mean_picture(found: Floats, objects: Floats, others: int) -> float:
    rng = np.random.default_rng(0)
    weights = rng.standard_exponential((1000, len(found) + 1))
    times = rng.multinomial(others, weights / weights.sum(axis=1, keepdims=True))
    ratio = times @ np.append(found, 0.0) / np.maximum(times @ np.append(objects, objects.mean()), 1e-9)
    return float(np.quantile(ratio, DELTA))


def t_bound(found: Floats, objects: Floats, others: int) -> float:
    k, share = len(found), found.sum() / objects.sum()
    rest = ((found - share * objects) ** 2).sum() / (k - 1)
    error = np.sqrt(rest * (1.0 / k + 1.0 / others)) / objects.mean()
    return float(max(0.0, share - stats.t.ppf(1.0 - DELTA, k - 1) * error))


def t_extra_picture(found: Floats, objects: Floats, others: int) -> float:
    return t_bound(np.append(found, 0.0), np.append(objects, objects.mean()), others)


def log_t(found: Floats, objects: Floats, others: int) -> float:
    k, missed = len(found), objects - found
    share = (missed.sum() + 1.0) / (objects.sum() + 1.0)
    rest = ((missed - share * objects) ** 2).sum() * k / (k - 1) + 1.0
    error = np.sqrt(rest * (1.0 + k / others)) / (missed.sum() + 1.0)
    return float(1.0 - min(1.0, share * np.exp(stats.t.ppf(1.0 - DELTA, k - 1) * error)))


BOUNDS: dict[str, Callable[[Floats, Floats, int], float]] = {
    "extra picture": extra_picture,
    "mean picture": mean_picture,
    "t": t_bound,
    "t, extra picture": t_extra_picture,
    "log t": log_t,
}


def cells(name: str, of: Set, draws: int) -> Iterator[dict[str, Any]]:
    """One row for each number of test pictures and each bound."""
    found, objects = of
    for k in PICTURES:
        if k > 0.7 * len(found):
            continue
        rng = np.random.default_rng([k, draws])
        bounds: dict[str, list[float]] = {bound: [] for bound in BOUNDS}
        true = []
        for _ in range(draws):
            order = rng.permutation(len(found))
            test, rest = order[:k], order[k:][:OTHERS]
            true.append(found[rest].sum() / objects[rest].sum())
            for bound, function in BOUNDS.items():
                bounds[bound].append(function(found[test], objects[test], len(rest)))
        for bound, values in bounds.items():
            yield {
                "name": f"completeness/{name}/{bound}",
                "pictures": k,
                "value": round(float(np.mean(np.array(values) <= np.array(true) + 1e-12)), 4),
                "mean": round(float(np.mean(values)), 4),
                "true": round(float(np.mean(true)), 4),
                "draws": draws,
            }


def play(path: Path, k: int, seed: int) -> tuple[float, float, float]:
    """Bound, share found on the test pictures and truth after a review of the other pictures.

    Pools do not say which object a mask found: the first good masks of a picture, as many as it has objects,
    count as one object each.
    """
    columns = np.load(path)
    objects, image = columns["objects"].sum(axis=1), columns["image"]
    good = columns["iou"] > GOOD_IOU
    order = np.random.default_rng(seed).permutation(len(objects))
    test = np.sort(order[:k])
    inside = np.isin(image, test)

    def pool(rows: Any) -> Pool:
        return Pool(*(columns[name][rows] for name in ("embedding", "score", "quality", "extras")))

    zeros = np.zeros(int(inside.sum()), np.int64)
    lessons = Lessons(pool(inside), zeros, good[inside], image[inside])
    project = ProjectPool([pool(~inside)], lessons=lessons)
    policy, log, truth = make_policy("certified"), AnswerLog.empty(), good[~inside]
    while True:
        step = policy.step(project, log, budget=150, seed=seed)
        if not len(step.questions):
            break
        log = log.extended(step.questions, truth[step.questions.item].astype(np.float32))
    assert step.p_yes is not None
    assert step.p_lessons is not None
    settled = (step.label > 0) | ((step.label < 0) & (step.decision < 0))
    place = np.zeros(len(zeros), np.int64)
    for picture in test.tolist():
        mine = np.flatnonzero(image[inside] == picture)
        place[mine] = np.arange(len(mine)) % max(int(objects[picture]), 1)
    known = KnownObjects(good[inside], place, image[inside], zeros, test, objects[test][:, None])
    others = len(objects) - k
    found = completeness(
        step.p_yes, (~settled).astype(float), project.label, step.p_lessons, known, others=others
    )
    delivered = np.bincount(image[~inside][truth & (step.label > 0)], minlength=len(objects))
    rest = np.delete(np.arange(len(objects)), test)
    true = np.minimum(delivered, objects)[rest].sum() / objects[rest].sum()
    return (0.0, 0.0, float(true)) if found is None else (found.whole.lower, found.whole.share, float(true))


def plays(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """One row for each number of test pictures."""
    for k in PICTURES:
        if k > 0.5 * len(np.load(path)["objects"]):
            continue
        lower, share, true = np.array([play(path, k, seed) for seed in range(count)]).T
        yield {
            "name": f"completeness/{path.stem}, reviewed",
            "pictures": k,
            "value": round(float((lower <= true + 1e-12).mean()), 4),
            "mean": round(float(lower.mean()), 4),
            "on test pictures": round(float(share.mean()), 4),
            "true": round(float(true.mean()), 4),
            "draws": count,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, action="append", default=[])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--plays", type=int, default=0, help="whole reviews on the pools instead")
    given = parser.parse_args()
    if given.plays:
        for path in given.pool:
            for row in plays(path, given.plays):
                print(json.dumps(row), flush=True)
        return
    for path in given.pool:
        for name, of in real_sets(path):
            for row in cells(name, of, given.draws):
                print(json.dumps(row), flush=True)
    for name, of in generated_sets():
        for row in cells(name, of, given.draws):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
