"""Orders measured by what they are for: how good the model gets, for the pictures and seconds that they cost.

A played loop per order and seed: label the first pictures, train, order the rest with what the model finds
there, label the next batch. The orders share the split, the seeds, the learner and its options, and the
random pictures that they start from (``ours`` may start from typical ones). Differences are paired by seed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from clustering.costs import Costs
from clustering.task_order import OrderRule
from clustering.typical import typical_order
from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.kinds.base import ProjectKind
from ml_backend.learners.base import Learner, TrainSpec
from ml_backend.learners.doubt_scorer import plain_scorer
from ml_backend.learners.evaluation import match_iou
from ml_backend.learners.mirrored import predict_twice
from ml_backend.learners.picture_features import picture_features
from ml_backend.learners.registry import get_learner
from ml_backend.learners.uncertainty import SHOWN_FROM
from sync.lab.labelled_pictures import LabelledPictures, split_by_group
from sync.rounds.order_core import measure, rank_measured, rule_for
from sync.settings import OrderMethod

__all__ = ["AlEvaluation", "evaluate_orders", "parse_order"]

Features = npt.NDArray[np.float32]
Report = Callable[[float, str], None]

_DRAW_S: Mapping[str, float] = {"boxes": 7.0, "classes": 1.4, "weak": 1.4}
"""Seconds to draw one object; a box by its extreme points takes 7 s (Papadopoulos et al. 2017), a class one
key. For masks see ``clustering.costs``."""


@dataclass(frozen=True, slots=True)
class AlEvaluation:
    """What is played.

    Parameters
    ----------
    orders : names as ``parse_order`` reads them; the last one is what the others are compared with
    start, batch, rounds : pictures labelled first, per round, and number of trainings
    test_fraction : share of the pictures that is kept for measuring
    seeds : number of repetitions; split, start and training follow from the seed
    metric : name out of the learner's evaluation; empty: the headline of the kind
    learner, preset, options : as for ``groundswell worker``; the learner empty: the default one of the kind
    typical_start : ``ours`` starts from typical pictures instead of the random ones of the others
    mirror : also look at each picture mirrored (the doubt ``tta``)
    draw_s : seconds per object drawn or mended; None: as usual for the kind
    features : see the setting of that name
    """

    orders: Sequence[str] = ("ours", "random")
    start: int = 10
    batch: int = 10
    rounds: int = 5
    test_fraction: float = 0.3
    seeds: int = 5
    metric: str = ""
    learner: str = ""
    preset: str = "light"
    options: Mapping[str, Any] = field(default_factory=dict)
    typical_start: bool = False
    mirror: bool = False
    draw_s: float | None = None
    features: str = "classical"
    device: str = "auto"


def parse_order(text: str) -> tuple[str, OrderRule]:
    """``ours``, ``random`` … or with exponents: ``ours,diversity=0,explore=0.1``. Raises BadInput."""
    method, *rest = text.split(",")
    known = get_args(OrderMethod)
    if method not in known:
        raise BadInput(f"there is no order {method!r}", field="order", hint=f"One of {', '.join(known)}")
    numbers: dict[str, float] = {}
    for part in rest:
        name, _, value = part.partition("=")
        try:
            if name not in ("diversity", "balance", "explore"):
                raise ValueError("it is diversity, balance or explore")
            numbers[name] = float(value)
        except ValueError as error:
            raise BadInput(f"{part!r} is no exponent of an order: {error}", field="order") from None
    try:
        return method, rule_for(method, **numbers)
    except ValueError as error:
        raise BadInput(str(error), field="order") from None


def evaluate_orders(
    data: LabelledPictures,
    kind: ProjectKind,
    plan: AlEvaluation,
    *,
    report: Report = lambda share, line: None,
    keep: Callable[[Mapping[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Play all orders with all seeds; JSON-ready figures.

    ``report`` is called with the share done and a line, ``keep`` with the figures so far after every
    repetition. Raises BadInput for a plan that cannot be played.
    """
    rules = {text: parse_order(text) for text in plan.orders}
    learner = get_learner(plan.learner or kind.learners[0])
    learner.check_options(plan.preset, plan.options)
    runs: dict[str, list[list[dict[str, float]]]] = {text: [] for text in plan.orders}
    found: dict[str, Any] = {}
    vectors = picture_features(plan.features)(_Pictures(data.examples)) if data.examples else None
    assert vectors is not None, "a set has pictures"
    total = plan.seeds * len(rules)
    for seed in range(plan.seeds):
        pool, test = split_by_group(data, plan.test_fraction, seed)
        needed = plan.start + plan.batch * (plan.rounds - 1)
        if needed > len(pool):
            raise BadInput(f"{needed} pictures are to be labelled, there are {len(pool)}", field="rounds")
        for number, (text, (method, rule)) in enumerate(rules.items()):
            done = seed * len(rules) + number

            def line(share: float, words: str, done: int = done, text: str = text, seed: int = seed) -> None:
                report((done + share) / total, f"{text}, seed {seed}: {words}")

            play = _Play(data, kind, plan, learner, method, rule, pool, test, vectors, seed)
            runs[text].append(play.curve(line))
            found = _figures(runs, plan, kind)
            keep(found)
    return found


class _Pictures(Sequence[npt.NDArray[np.uint8]]):
    """Pixels of examples, read when they are asked for."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: Any) -> Any:
        return read_image(self._examples[i].image)


@dataclass(frozen=True, slots=True, eq=False)
class _Play:
    """One order with one seed."""

    data: LabelledPictures
    kind: ProjectKind
    plan: AlEvaluation
    learner: Learner
    method: str
    rule: OrderRule
    pool: Sequence[int]
    test: Sequence[int]
    vectors: Features
    seed: int

    def curve(self, line: Report) -> list[dict[str, float]]:
        """One point per training: labelled pictures, seconds spent, metric."""
        plan, rng = self.plan, np.random.default_rng([self.seed, 3])
        left = list(self.pool)
        if self.method == "ours" and plan.typical_start:
            first = typical_order(self.vectors[left], plan.start, seed=self.seed)[: plan.start].tolist()
        else:
            first = rng.permutation(len(left))[: plan.start].tolist()
        labelled = [left[i] for i in first]
        seconds = sum(self._seconds(row, None) for row in labelled)
        left = [row for row in left if row not in set(labelled)]
        points: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory(prefix="groundswell-al-") as scratch:
            before: Path | None = None
            for number in range(plan.rounds):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                metric = self._train(labelled, folder, before, number)
                points.append({"labelled": len(labelled), "seconds": seconds, "metric": metric})
                line((number + 1) / plan.rounds, f"{len(labelled)} labelled, {self._metric} {metric:.3f}")
                before = folder
                if number + 1 == plan.rounds:
                    break
                chosen, shown = self._next(labelled, left, folder)
                seconds += sum(self._seconds(row, shown.get(row)) for row in chosen)
                labelled += chosen
                left = [row for row in left if row not in set(chosen)]
        return points

    @property
    def _metric(self) -> str:
        return self.plan.metric or self.kind.headline

    def _train(self, labelled: Sequence[int], folder: Path, before: Path | None, number: int) -> float:
        spec = TrainSpec(
            self.data.labels,
            tuple(self.data.examples[row] for row in labelled),
            tuple(self.data.examples[row] for row in self.test),
            preset=self.plan.preset,
            start=before,
            seed=1000 * self.seed + number,
            device=self.plan.device,
            options=dict(self.plan.options),
            exclusive=self.kind.tagged and all(len(e.tags) == 1 for e in self.data.examples),
        )
        metrics = self.learner.train(spec, folder, lambda share, words: None).evaluation.metrics
        if self._metric not in metrics:
            raise BadInput(
                f"the learner does not measure {self._metric}",
                field="metric",
                hint=f"It has {', '.join(metrics)}",
            )
        value = metrics[self._metric][0]
        return float(value) if np.isfinite(value) else 0.0

    def _next(
        self, labelled: Sequence[int], left: Sequence[int], folder: Path
    ) -> tuple[list[int], dict[int, Instances]]:
        """The next batch of rows, and what the model shows on each of them."""
        predictor = self.learner.load(folder, device=self.plan.device)
        if self.method in ("random", "sequential"):  # the model is only asked about what is drawn
            found: list[Instances] = []
            measured = measure(
                *(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 2, [{}] * len(left), 0, shown_from=SHOWN_FROM
            )
        else:
            found = []
            for row in left:
                image = read_image(self.data.examples[row].image)
                if self.plan.mirror or self.method == "tta":
                    found += predict_twice(predictor, [image])
                else:
                    found += predictor.predict([image])
            sizes = [len(instances) for instances in found]
            measured = measure(
                np.repeat(np.arange(len(left)), sizes),
                np.concatenate([f.label for f in found]),
                np.concatenate([f.score for f in found]),
                np.concatenate([f.quality for f in found]),
                [f.doubts for f in found],
                len(self.data.labels),
                shown_from=SHOWN_FROM,
            )
        counts = np.zeros(measured.shown.shape[1], np.int64)
        for row in labelled if len(counts) else ():
            example = self.data.examples[row]
            np.add.at(counts, np.array([*example.label, *example.tags], np.int64), 1)
        feature, of_labelled = self.vectors[left], self.vectors[list(labelled)]
        if found and all(
            len(f.feature) for f in found
        ):  # as in a project, those of labelled ones are not known
            feature = np.stack([f.feature for f in found])
            of_labelled = np.zeros((0, feature.shape[1]), np.float32)
        ranked = rank_measured(
            self.method,
            measured,
            plain_scorer(self.method, tuple(measured.doubts)),
            self.rule,
            tasks=[self.data.examples[row].task_id for row in left],
            labelled=counts.tolist(),
            feature=feature,
            labelled_feature=of_labelled,
            seed=self.seed,
            batch=self.plan.batch,
        )
        places = ranked.ranking.order[: self.plan.batch].tolist()
        chosen = [left[i] for i in places]
        if found:
            return chosen, {left[i]: found[i] for i in places}
        images = [read_image(self.data.examples[row].image) for row in chosen]
        return chosen, dict(zip(chosen, predictor.predict(images), strict=True))

    def _seconds(self, row: int, found: Instances | None) -> float:
        """A person's seconds for one picture: a look at what is shown, and drawing what has to be drawn."""
        costs, example = Costs(), self.data.examples[row]
        usual = _DRAW_S.get(self.kind.name, costs.drawn_mask)
        draw = usual if self.plan.draw_s is None else self.plan.draw_s
        if self.kind.tagged:
            return max(draw, draw * len(example.tags))
        if found is None:
            return costs.question + draw * len(example.label)
        shown = found.take(found.score >= SHOWN_FROM)
        good = int((match_iou(shown, example) > self.kind.good_iou).sum())
        right = min(good, len(example.label))
        fixes = max(len(example.label), len(shown)) - right
        return costs.question * max(1, len(shown)) + draw * fixes


def _figures(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], plan: AlEvaluation, kind: ProjectKind
) -> dict[str, Any]:
    """Curves and areas under them; differences from the last order, paired by seed."""
    whole = min(len(curves) for curves in runs.values())
    by_tasks = {
        text: np.array([_area(curve, "labelled") for curve in curves]) for text, curves in runs.items()
    }
    spans = [_span([curves[seed] for curves in runs.values()]) for seed in range(whole)]
    by_seconds = {
        text: np.array([_area(curve, "seconds", span) for curve, span in zip(curves, spans, strict=False)])
        for text, curves in runs.items()
    }
    reference = list(runs)[-1]

    def against(areas: Mapping[str, npt.NDArray[np.float64]], text: str) -> dict[str, float]:
        return _interval(areas[text][:whole] - areas[reference][:whole])

    return {
        "metric": plan.metric or kind.headline,
        "kind": kind.name,
        "learner": plan.learner or kind.learners[0],
        "options": dict(plan.options),
        "seeds": whole,
        "reference": reference,
        "orders": {
            text: {
                "curves": [list(map(dict, curve)) for curve in curves],
                "area_by_tasks": _interval(by_tasks[text]),
                "area_by_seconds": _interval(by_seconds[text]),
                **(
                    {
                        "difference_by_tasks": against(by_tasks, text),
                        "difference_by_seconds": against(by_seconds, text),
                    }
                    if text != reference
                    else {}
                ),
            }
            for text, curves in runs.items()
        },
    }


def _span(curves: Sequence[Sequence[Mapping[str, float]]]) -> tuple[float, float]:
    """The seconds that all curves cover."""
    return max(c[0]["seconds"] for c in curves), min(c[-1]["seconds"] for c in curves)


def _area(curve: Sequence[Mapping[str, float]], axis: str, span: tuple[float, float] | None = None) -> float:
    """Mean height of the curve over an axis (its area divided by its length)."""
    x = np.array([point[axis] for point in curve])
    y = np.array([point["metric"] for point in curve])
    low, high = span or (float(x[0]), float(x[-1]))
    if not low < high:
        return float(y.mean())
    inside = x[(x > low) & (x < high)]
    at = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid(np.interp(at, x, y), at) / (high - low))


def _interval(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean and 95 % t interval over seeds (NaN-free: a single seed has no width that could be known)."""
    n, mean = len(values), float(values.mean()) if len(values) else 0.0
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else 1.0
    return {"value": mean, "low": mean - half, "high": mean + half, "seeds": n}
