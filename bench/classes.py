"""Classes of whole pictures: quality against labels, and labels certified by yes/no answers.

    python -m bench.classes accuracy --data magnetic_tile --cache features.npz
    python -m bench.classes network --data magnetic_tile --labels 100 400 --side 96 --iterations 150
    python -m bench.classes certify --data magnetic_tile --cache features.npz --plays 20

``--data`` is a folder with labels.csv (file,label) and groups.csv (file,group); splits are by group.
Features are the classifier's patch filters, learnt once from all pictures without labels.

``accuracy``: a linear head on frozen features, trained on so many labels drawn from two thirds of the
groups and measured on the other third; mean over draws with the smallest and largest. ``network``: the whole
of MobileNetV3-small from random weights, and what ``auto`` chooses.

``certify``: 200 labelled pictures train the head, 100 are the test split, which teaches the verifier; the
rest are the pool. People see contact sheets of one predicted label and tick those that are wrong. A picture
whose label is not delivered in the end costs one key press, 1.4 s, like every picture in the baseline. Also
played on generated pictures: 3,000 feature vectors of 10 classes, of which the head gets about 87 % right.
One line of JSON per figure.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.costs import QUESTION_S, Costs
from clustering.pool import Pool
from clustering.project_pool import Lessons, ProjectPool
from clustering.search import make_policy
from clustering.simulation import People, play
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.classes.evaluation import area_under_roc
from ml_backend.learners.classes.fine_tuning import Truth
from ml_backend.learners.classes.folds import fold_of, look_alikes, thumbnail, usable_folds
from ml_backend.learners.classes.learner import Classifier
from ml_backend.learners.classes.logistic import balanced_weights, fit_linear
from ml_backend.learners.classes.selection import judge_linear
from sync.lab.policy_plays import PlayPlan, policy_options

Floats = npt.NDArray[np.float64]
PEOPLE = {"exact": People(), "95 % right": People(sensitivity=0.95, specificity=0.95)}
PURITY = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Set:
    """n pictures: features (n, d), thumbnails (n, 256), labels (n,), groups (n,), names of the labels."""

    feature: Floats
    small: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    names: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["accuracy", "network", "certify"])
    parser.add_argument("--data", type=Path, help="folder with labels.csv and groups.csv")
    parser.add_argument("--cache", type=Path, help="file that keeps the features")
    parser.add_argument("--labels", type=int, nargs="*", default=[20, 50, 100, 200, 400])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--plays", type=int, default=20)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--iterations", type=int, default=150)
    arguments = parser.parse_args()
    if arguments.what == "network":
        network(arguments)
        return
    known = None if arguments.data is None else load(arguments.data, arguments.cache)
    if arguments.what == "accuracy":
        if known is None:
            raise SystemExit("accuracy needs --data")
        accuracy(known, arguments.labels, arguments.draws, arguments.data.name)
        return
    if known is not None:
        certify(arguments.data.name, [tiles(known, seed) for seed in range(5)], arguments.plays)
    certify("generated.3000", [generated(seed) for seed in range(5)], arguments.plays)


def table(data: Path) -> tuple[list[Path], npt.NDArray[np.int64], npt.NDArray[np.int64], tuple[str, ...]]:
    with (data / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (data / "groups.csv").open() as file:
        group = {row["file"]: row["group"] for row in csv.DictReader(file)}
    names = tuple(sorted({row["label"] for row in rows}))
    numbers = {name: i for i, name in enumerate(sorted(set(group.values())))}
    label = np.array([names.index(row["label"]) for row in rows])
    return (
        [data / row["file"] for row in rows],
        label,
        np.array([numbers[group[row["file"]]] for row in rows]),
        names,
    )


def load(data: Path, cache: Path | None) -> Set:
    paths, label, group, names = table(data)
    if cache is not None and cache.exists():
        kept = np.load(cache)
        return Set(kept["feature"], kept["small"], label, group, names)
    import torch

    from ml_backend.learners.classes.patches import PatchFeatures
    from ml_backend.learners.classes.squares import as_batch, square

    features = PatchFeatures()
    squares = [square(read_image(path), features.side) for path in paths]
    features.learn(squares, seed=0)
    with torch.inference_mode():
        found = [
            features(as_batch(squares[i : i + 32], torch.device("cpu")) / 255).numpy()
            for i in range(0, len(squares), 32)
        ]
    feature = np.concatenate(found).astype(np.float64)
    small = np.stack([thumbnail(one) for one in squares])
    if cache is not None:
        np.savez(cache, feature=feature, small=small)
    return Set(feature, small, label, group, names)


def fitted(
    feature: Floats, label: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], k: int, of: Floats
) -> Floats:
    """(m, k) calibrated probabilities of ``of`` by a head that is trained as the classifier trains it."""
    centre, spread = feature.mean(axis=0), np.maximum(feature.std(axis=0), 1e-3)
    scale = spread * np.sqrt(feature.shape[1])
    tags = np.eye(k)[label]
    seen = np.flatnonzero(tags.any(axis=0))
    truth = Truth(tags[:, seen], balanced_weights(tags[:, seen], exclusive=True), True)
    x = (feature - centre) / scale
    fold = fold_of(groups, truth.tags, folds=3, seed=0)
    penalty, judged = judge_linear(x, truth, fold, usable_folds(fold), seed=0)
    linear = fit_linear(x, truth.tags, truth.weights, penalty=penalty, exclusive=True)
    p = np.zeros((len(of), k))
    p[:, seen] = judged.calibration.probabilities(linear.logits((of - centre) / scale), exclusive=True)
    return p


def split(group: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    """(n,) whether a picture is for testing: those of a third of the groups."""
    numbers = np.random.default_rng(seed).permutation(np.unique(group))
    return np.isin(group, numbers[: len(numbers) // 3])


def accuracy(known: Set, labels: Sequence[int], draws: int, name: str) -> None:
    rare = int(np.argmin(np.bincount(known.label)))
    for n in labels:
        rows = []
        for seed in range(draws):
            test = split(known.group, seed)
            train = np.random.default_rng(seed).permutation(np.flatnonzero(~test))[:n]
            alike = look_alikes(known.small[train])
            p = fitted(known.feature[train], known.label[train], alike, len(known.names), known.feature[test])
            truth = known.label[test]
            hit = p.argmax(axis=1) == truth
            recall = [float(hit[truth == label].mean()) for label in range(len(known.names))]
            auc = area_under_roc(p[:, rare], (truth == rare).astype(np.float64))
            rows.append((float(hit.mean()), float(np.mean(recall)), auc))
        for column, metric in enumerate(("accuracy", "balanced_accuracy", "AUC")):
            values = np.array([row[column] for row in rows])
            line(
                f"{name}.linear.{n}_labels.{metric}",
                values.mean(),
                "share",
                low=values.min(),
                high=values.max(),
                draws=draws,
            )


def network(arguments: argparse.Namespace) -> None:
    paths, label, group, names = table(arguments.data)
    test = split(group, 0)
    examples = [Example(i, path, (), (), tags=(int(label[i]),)) for i, path in enumerate(paths)]
    for n in arguments.labels:
        train = np.random.default_rng(0).permutation(np.flatnonzero(~test))[:n]
        for method in ("network", "auto"):
            options = {
                "weights": "none",
                "method": method,
                "side": arguments.side,
                "iterations": arguments.iterations,
                "threads": 1,
            }
            spec = TrainSpec(
                names,
                tuple(examples[i] for i in train),
                tuple(examples[i] for i in np.flatnonzero(test)),
                exclusive=True,
                device="cpu",
                options=options,
            )
            with tempfile.TemporaryDirectory() as folder:
                report = Classifier().train(spec, Path(folder) / "v1", lambda share, text: None)
            for metric in ("accuracy", "balanced_accuracy", "AUC"):
                value, low, high = report.evaluation.metrics[metric]
                line(
                    f"{arguments.data.name}.{method}.{n}_labels.{metric}",
                    value,
                    "share",
                    low=low,
                    high=high,
                    seconds=round(report.seconds, 1),
                    said=report.started_from,
                )


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A pool with what is true of it: ``right`` (n,) 1 where the predicted label is right."""

    project: ProjectPool
    right: Floats


def tiles(known: Set, seed: int) -> Field:
    """200 pictures train the head, 100 are the test split, the rest the pool; all drawn by group."""
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [np.flatnonzero(known.group == g) for g in rng.permutation(np.unique(known.group))]
    )
    train, test, rest = order[:200], order[200:300], order[300:]
    both = np.concatenate([rest, test])
    alike = look_alikes(known.small[train])
    p = fitted(known.feature[train], known.label[train], alike, len(known.names), known.feature[both])
    return field_of(p, known.feature[both], known.label[both], len(rest))


def generated(seed: int, n: int = 3000, k: int = 10, d: int = 64) -> Field:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(k, 2.0))
    centres = rng.normal(0, 0.42, (k, d))
    label = rng.choice(k, n + 300, p=share)
    feature = centres[label] + rng.normal(0, 1, (n + 300, d))
    train = np.arange(n + 100, n + 300)
    p = fitted(feature[train], label[train], np.arange(200), k, feature[: n + 100])
    return field_of(p, feature[: n + 100], label[: n + 100], n)


def field_of(p: Floats, feature: Floats, label: npt.NDArray[np.int64], n: int) -> Field:
    """The first ``n`` rows are the pool, the others the test split."""
    top = p.argmax(axis=1)
    standard = (feature - feature.mean(axis=0)) / np.maximum(feature.std(axis=0), 1e-3)
    projection = np.random.default_rng(0).normal(size=(feature.shape[1], 128))
    embedding = standard @ projection
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    score = p.max(axis=1)
    right = (top == label).astype(np.float64)

    def pool(rows: npt.NDArray[np.int64]) -> Pool:
        return Pool(
            embedding[rows].astype(np.float32),
            score[rows].astype(np.float32),
            np.ones(len(rows), np.float32),
            np.zeros((len(rows), 0), np.float32),
        )

    by_label = [np.flatnonzero(top[:n] == number) for number in range(p.shape[1])]
    test = np.arange(n, len(p))
    lessons = Lessons(pool(test), top[test], right[test] > 0.5, test)
    project = ProjectPool([pool(rows) for rows in by_label], lessons=lessons)
    return Field(project, right[np.concatenate(by_label)])


def certify(name: str, fields: Sequence[Field], plays: int) -> None:
    costs = Costs(drawn_mask=QUESTION_S)
    for who, people in PEOPLE.items():
        plan = PlayPlan(
            purity=PURITY, people=None if people == People() else people, seeds=plays, costs=costs
        )
        policy = make_policy("certified", **policy_options("certified", {}, plan))
        rows: list[dict[str, float]] = []
        for seed in range(plays):
            field = fields[seed % len(fields)]
            run = play(policy, field.project, field.right, seed=seed, people=people, costs=costs)
            n, curve = len(field.right), run.curve
            labels = float(curve.masks[-1])
            answers = float(curve.questions[-1])
            rows.append(
                {
                    "pictures": float(n),
                    "head_right": float(field.right.mean()),
                    "answers": answers,
                    "labels": labels,
                    "unseen_labels": float(curve.unseen[-1]),
                    "labels_per_answer": labels / answers if answers else float("nan"),
                    "purity": float(curve.precision[-1]),
                    "hours_of_answers": float(curve.hours[-1]),
                    "hours_to_all_labels": float(curve.hours[-1]) + (n - labels) * QUESTION_S / 3600,
                    "hours_one_key_each": n * QUESTION_S / 3600,
                    "promise_broken_unseen": float(run.worst_unseen < PURITY),
                }
            )
        for figure in rows[0]:
            values = np.array([row[figure] for row in rows])
            told = values[~np.isnan(values)]
            if len(told):
                half = 1.96 * told.std(ddof=1) / np.sqrt(len(told)) if len(told) > 1 else float("nan")
                mean = float(told.mean())
                line(f"{name}.{who}.{figure}", mean, "", low=mean - half, high=mean + half, plays=len(told))


def line(name: str, value: float, unit: str, **more: Any) -> None:
    rounded = {key: round(float(v), 4) if isinstance(v, float) else v for key, v in more.items()}
    print(
        json.dumps({"name": f"classes.{name}", "value": round(float(value), 4), "unit": unit, **rounded}),
        flush=True,
    )


if __name__ == "__main__":
    main()
