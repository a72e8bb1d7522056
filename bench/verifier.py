"""Which verifier orders masks best, and how many human hours that saves.

    python -m bench.verifier                                   # generated pools
    python -m bench.verifier --pool cells.npz --pictures odd   # a pool written by `groundswell pool`
    python -m bench.verifier --pool cells.npz --plays 20       # hours, too

Each candidate learns from some answers drawn at random and is judged on all other masks of the pool:

* ``detector``: score × quality, nothing is learnt
* ``straight``: the logistic regression without knots
* ``bent``: the verifier that is used
* ``boosted``: the same with gradient boosting (scikit-learn) stacked on it: both predict held-out answers,
  and a third regression finds out how much either counts
* ``neighbours``: the same with the mean residual of the 15 nearest answered masks in place of the boosting
* ``smoothed``: the same with residuals smoothed over the cluster tree (``--trees``)

One line of JSON per figure: name, value, unit, baseline (``straight``), ratio = value / baseline. Figures:
Spearman's rank correlation of the prediction with the true IoU, area under the curve for good against bad,
log loss, expected calibration error over 15 equal bins, seconds of a fit. ``--plays`` adds the hours of
``straight`` and ``bent`` in the certified policy: answers and drawing to the finished set.

Knots and penalties were chosen on the even pictures of nuclei and mushrooms and on generated pools of seeds
1000 and up; report on others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from bench.pools import make_labels
from clustering import verifier as learning
from clustering.arrays import Bools, Floats, Ints
from clustering.project_pool import ProjectPool
from clustering.search import _step as policy_step
from clustering.search import make_policy
from clustering.simulation import CORRECT_IOU, play
from clustering.trees import ClusterTree, grow_tree
from clustering.verifier import Features, fit_logistic, fit_verifier, make_features
from sync.lab.policy_plays import known_project, true_iou
from sync.lab.pool_files import read_pool

ANSWERS = (100, 300, 1000, 3000)
KINDS = ("strong", "weak", "hidden", "labels20")
FOLDS = 5
_SECOND = np.array([1.0, 20.0, 20.0])
"""Penalties of the third regression: constant, slope of the first opinion, weight of the second."""

Predict = Callable[[Ints, Floats], Floats]
"""Answered rows and their verdicts -> probabilities of all rows."""
Opinion = Callable[[Ints, Floats, Floats], Floats]
"""Answered rows, what is left to explain of their verdicts (-1..1), log-odds of all rows -> (n,) values."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="kinds of generated pools")
    parser.add_argument("--size", type=int, default=4000, help="masks of a generated pool")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the generated pool")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="pool files to measure on instead")
    parser.add_argument("--pictures", choices=("all", "even", "odd"), default="all", help="pictures to read")
    parser.add_argument("--answers", type=int, nargs="*", default=list(ANSWERS), help="numbers of answers")
    parser.add_argument("--draws", type=int, default=5, help="draws of the answers")
    parser.add_argument("--plays", type=int, default=0, help="plays of the policy, for the hours")
    parser.add_argument("--trees", action="store_true", help="measure smoothing over the tree as well")
    parser.add_argument("--quick", action="store_true", help="one small pool, two draws")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.kinds, arguments.size = arguments.kinds[:1], 1000
        arguments.answers, arguments.draws = arguments.answers[:2], 2
    for name, project, iou in pools(arguments):
        for answers in arguments.answers:
            if answers <= 0.8 * len(iou):
                judge(f"{name}.{answers}", project, iou, answers, arguments.draws, trees=arguments.trees)
        if arguments.plays:
            hours(name, project, iou, arguments.plays)


def pools(arguments: argparse.Namespace) -> Iterator[tuple[str, ProjectPool, Floats]]:
    for path in arguments.pool:
        known = read_pool(path)
        if arguments.pictures != "all":
            if any(entry.image is None for entry in known):
                raise SystemExit(f"{path} has no column image: --pictures cannot be used")
            odd = int(arguments.pictures == "odd")
            known = [entry.take(np.asarray(entry.image) % 2 == odd) for entry in known]
        yield f"{path.stem}.{arguments.pictures}", known_project(known, None), true_iou(known)
    for kind in [] if arguments.pool else arguments.kinds:
        made = make_labels(kind, arguments.size, seed=arguments.first_seed)
        iou = np.concatenate([part.iou for part in made]).astype(np.float64)
        yield f"{kind}.{arguments.size}", ProjectPool([part.pool for part in made]), iou


def judge(name: str, project: ProjectPool, iou: Floats, answers: int, draws: int, *, trees: bool) -> None:
    """Print the figures of all candidates, means over the draws."""
    good = iou > CORRECT_IOU
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(draws):
        item = np.random.default_rng([seed, answers]).choice(len(iou), answers, replace=False)
        rest = np.setdiff1d(np.arange(len(iou)), item)
        for candidate, predict in candidates(project, seed, trees=trees).items():
            begin = time.perf_counter()
            p = predict(item, good[item].astype(np.float64))[rest]
            seconds = time.perf_counter() - begin
            found.setdefault(candidate, []).append((*figures(p, iou[rest], good[rest]), seconds))
    means = {candidate: np.mean(rows, axis=0) for candidate, rows in found.items()}
    units = ("rank correlation", "share", "nats", "share", "s")
    names = ("spearman", "auc", "log_loss", "calibration_error", "fit_seconds")
    for candidate, values in means.items():
        for i, (figure, unit) in enumerate(zip(names, units, strict=True)):
            line(f"{name}.{candidate}.{figure}", float(values[i]), unit, float(means["straight"][i]))


def candidates(project: ProjectPool, seed: int, *, trees: bool) -> dict[str, Predict]:
    features = make_features(project)
    flat = straight(features)

    def used(of: Features) -> Predict:
        return lambda item, yes: fit_verifier(of, item, yes, seed=seed).p_yes.astype(np.float64)

    found: dict[str, Predict] = {
        "detector": lambda item, yes: special.expit(features.detector),
        "straight": used(flat),
        "bent": used(features),
        "boosted": stacked(used(features), boosting(features, seed), seed),
        "neighbours": stacked(used(features), neighbours(features), seed),
    }
    if trees and len(project.pools) == 1:
        found["smoothed"] = stacked(used(features), smoothing(grow_tree(project.pools[0], seed=0)), seed)
    return found


def straight(features: Features) -> Features:
    """The same features without knots."""
    nothing = np.zeros(0, np.float32)
    return replace(
        features,
        bends=np.zeros(0, np.int64),
        knot=nothing,
        mean=nothing,
        spread=nothing,
        penalty=features.penalty[: features.columns.shape[1]],
    )


def stacked(first: Predict, opinion: Opinion, seed: int) -> Predict:
    """The first prediction and a second opinion on what it leaves, weighed by held-out answers."""

    def predict(item: Ints, yes: Floats) -> Floats:
        fold = np.random.default_rng([seed, len(item), 1]).permutation(len(item)) % FOLDS
        held, second = np.zeros(len(item)), np.zeros(len(item))
        for f in range(FOLDS):
            inside, out = fold != f, fold == f
            z = special.logit(np.clip(first(item[inside], yes[inside]), 1e-5, 1 - 1e-5))
            left = yes[inside] - special.expit(z[item[inside]])
            held[out] = z[item[out]]
            second[out] = opinion(item[inside], left, z)[item[out]]
        columns = np.stack([np.ones(len(item)), held, second], axis=1)
        weight = fit_logistic(columns, yes, _SECOND, offset=held)
        z = special.logit(np.clip(first(item, yes), 1e-5, 1 - 1e-5))
        whole = opinion(item, yes - special.expit(z[item]), z)
        return np.asarray(special.expit(z + weight[0] + weight[1] * z + weight[2] * whole))

    return predict


def boosting(features: Features, seed: int) -> Opinion:
    from sklearn.ensemble import HistGradientBoostingRegressor

    def opinion(item: Ints, left: Floats, z: Floats) -> Floats:
        columns = np.column_stack([features.columns[:, 1:], z])
        model = HistGradientBoostingRegressor(
            max_iter=60, max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=5.0, random_state=seed
        )
        return 4.0 * np.asarray(model.fit(columns[item], left).predict(columns))

    return opinion


def neighbours(features: Features, count: int = 15) -> Opinion:
    from scipy.spatial import cKDTree

    def opinion(item: Ints, left: Floats, z: Floats) -> Floats:
        _, near = cKDTree(features.columns[item]).query(features.columns, k=min(count, len(item)))
        mean: Floats = left[near.reshape(len(z), -1)].sum(axis=1) / (count + 10.0)
        return 4.0 * mean

    return opinion


def smoothing(tree: ClusterTree) -> Opinion:
    """Means of what is left, down the tree, each shrunk towards the mean of its parent by eight answers."""

    def opinion(item: Ints, left: Floats, z: Floats) -> Floats:
        result = np.zeros(len(z))
        waiting = [(tree.root, 0.0)]
        while waiting:
            node, above = waiting.pop()
            members = tree.members(node)
            mine = np.isin(item, members)
            children = tree.children(node)
            if mine.sum() < 3 or children is None:
                result[members] = above
                continue
            here = (float(left[mine].sum()) + 8.0 * above) / (mine.sum() + 8.0)
            waiting += [(child, here) for child in children]
        return 4.0 * result

    return opinion


def figures(p: Floats, iou: Floats, good: Bools) -> tuple[float, float, float, float]:
    """Rank correlation, area under the curve, log loss, calibration error."""
    rank = stats.rankdata(p)
    yes, no = int(good.sum()), int((~good).sum())
    area = (rank[good].sum() - yes * (yes + 1) / 2) / (yes * no) if yes and no else float("nan")
    safe = np.clip(p, 1e-6, 1 - 1e-6)
    loss = -np.where(good, np.log(safe), np.log1p(-safe)).mean()
    bins = [some for some in np.array_split(np.argsort(p, kind="stable"), 15) if len(some)]
    error = sum(abs(p[some].mean() - good[some].mean()) * len(some) for some in bins) / len(p)
    return float(stats.spearmanr(p, iou)[0]), float(area), float(loss), float(error)


def hours(name: str, project: ProjectPool, iou: Floats, plays: int) -> None:
    """Print human hours to the finished set, and the recall there, of ``straight`` and ``bent``."""
    told: dict[str, npt.NDArray[np.float64]] = {}
    makers: dict[str, Callable[[ProjectPool], Features]] = {
        "straight": lambda pool: straight(learning.make_features(pool)),
        "bent": learning.make_features,
    }
    for candidate, make in makers.items():
        with patch.object(policy_step, "make_features", make):
            runs = [play(make_policy("certified"), project, iou, seed=seed) for seed in range(plays)]
        told[candidate] = np.array([[run.curve.hours_to_finish[-1], run.curve.recall[-1]] for run in runs])
    base = told["straight"]
    for candidate, rows in told.items():
        for i, (figure, unit) in enumerate((("hours", "h"), ("recall", "share"))):
            gap = rows[:, i] - base[:, i]
            spread = float(gap.std(ddof=1) / len(gap) ** 0.5) if len(gap) > 1 else float("nan")
            whole, before = float(rows[:, i].mean()), float(base[:, i].mean())
            line(f"{name}.{candidate}.{figure}", whole, unit, before, gap_standard_error=plain(spread))


def line(name: str, value: float, unit: str, baseline: float, **more: float | None) -> None:
    ratio = value / baseline if baseline else float("nan")
    fixed = {"name": f"verifier.{name}", "value": plain(value), "unit": unit, "baseline": plain(baseline)}
    print(json.dumps({**fixed, "ratio": plain(ratio), **more}), flush=True)


def plain(number: float) -> float | None:
    return round(float(number), 4) if np.isfinite(number) else None


if __name__ == "__main__":
    main()
