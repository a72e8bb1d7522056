"""Instances from tags alone: complete-instance mining against simpler ways to use the same proposals.

    python -m bench.weak --images cells/images --coco cells/annotations.json --train-images 40
    python -m bench.weak --images photos --coco photos.json --labels person,car --refine

The learner sees tags of the training pictures, never their masks; AP is measured on the masks of held-out
pictures. One line of JSON per figure: name, value with its 95 % interval, and as baseline the best of:

- ``best_of_tag``: the proposal with the highest class score of each label on a picture (plain multiple-
  instance learning, no integrity);
- ``above_score``: all proposals whose class score is above one half, doubles suppressed;
- ``no_integrity``: the three branches without the search for complete instances;
- ``objectness``: all proposals by objectness alone, under the commonest label.

All have the same proposals, features, network and number of steps. ``ceiling`` is the share of true objects
that some proposal fits with an IoU of one half: no choice among the proposals finds more.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.detection_set import add_arguments, load_examples, print_figure, split, with_training_environment
from ml_backend.examples import Example
from ml_backend.instances import Instances
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.evaluation import evaluate
from ml_backend.learners.maskrcnn.learner import MaskRcnn
from ml_backend.learners.weak.settings import CimSettings, cim_settings
from ml_backend.masks.rle import rle_box, rle_iou

Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--labels", default="", help="only these labels, with commas (default: all)")
    parser.add_argument("--train-images", type=int, default=30)
    parser.add_argument("--test-images", type=int, default=15)
    parser.add_argument("--refine", action="store_true", help="also train Mask R-CNN on the mined instances")
    parser.add_argument(
        "--quick", action="store_true", help="few pictures and steps: a test of the benchmark"
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the learner")
    options = parser.parse_args()
    with_training_environment("bench.weak")
    chosen: dict[str, Any] = dict(pair.split("=", 1) for pair in options.option)
    if options.quick:
        options.train_images, options.test_images = 6, 3
        chosen = {"iterations": 10, "most": 40, "work_side": 160, **chosen}
    settings, later = cim_settings("light", chosen)
    with tempfile.TemporaryDirectory() as scratch:
        name, labels, examples = load_examples(options, Path(scratch))
        labels, examples = only(labels, examples, [v for v in options.labels.split(",") if v])
        train, test = split(examples, options.test_images, options.train_images)
        run(name, labels, train, test, settings, later, options, Path(scratch))


def only(
    labels: tuple[str, ...], examples: Sequence[Example], wanted: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Example, ...]]:
    """Examples with the wanted labels alone, tagged by what they show; all labels where none is wanted."""
    kept = tuple(wanted) or labels
    found = []
    for example in examples:
        rows = [
            (kept.index(labels[k]), rle)
            for k, rle in zip(example.label, example.rle, strict=True)
            if labels[k] in kept
        ]
        label = tuple(k for k, _ in rows)
        rle = tuple(rle for _, rle in rows)
        found.append(dataclasses.replace(example, label=label, rle=rle, tags=tuple(sorted(set(label)))))
    return kept, tuple(found)


def run(
    name: str,
    labels: tuple[str, ...],
    train: Sequence[Example],
    test: Sequence[Example],
    settings: CimSettings,
    later: dict[str, Any],
    options: argparse.Namespace,
    scratch: Path,
) -> None:
    """Train and measure all ways on one split, and print the figures."""
    import torch

    from ml_backend.learners.weak.dataset import make_bags
    from ml_backend.learners.weak.pseudo import pseudo_examples
    from ml_backend.learners.weak.training import train_heads

    started = time.monotonic()
    tagged = [dataclasses.replace(example, label=(), rle=()) for example in train]
    blind = [dataclasses.replace(example, label=(), rle=()) for example in test]
    used, bags, _ = make_bags(tagged, len(labels), settings, seed=options.seed, progress=_quiet)
    every = dataclasses.replace(settings, pictures=0)
    shown, pool, _ = make_bags(blind, len(labels), every, seed=options.seed, progress=_quiet)
    truth = [next(e for e in test if e.task_id == s.task_id) for s in shown]
    seconds = {"proposals": time.monotonic() - started}
    heads: dict[str, Any] = {}
    found: dict[str, list[Instances]] = {}
    for way in ("on", "off"):
        started = time.monotonic()
        heads[way], _ = train_heads(
            bags,
            len(labels),
            dataclasses.replace(settings, integrity=way),
            seed=options.seed,
            device=torch.device("cpu"),
            progress=_quiet,
        )
        seconds[way] = time.monotonic() - started
    for bag in pool:
        for way, instances in ways(bag, heads["on"], heads["off"], settings).items():
            found.setdefault(way, []).append(instances)
    if options.refine:
        started = time.monotonic()
        pseudo = pseudo_examples(
            heads["on"], used, bags, threshold=settings.pseudo_threshold, nms=settings.nms
        )
        spec = TrainSpec(labels, tuple(pseudo), (), seed=options.seed, device="cpu", options=later)
        MaskRcnn().train(spec, scratch / "refined", _quiet)
        found["refined"] = _predicted(scratch / "refined", truth)
        seconds["refined"] = time.monotonic() - started
    place = {"set": name, "labels": list(labels), "train_images": len(used), "test_images": len(truth)}
    print_figure("weak_ceiling", _ceiling(pool, truth), "", None, **place)
    measured = {way: evaluate(all_of, truth, labels, loose=True).metrics for way, all_of in found.items()}
    ours = ("mined", "refined")
    for metric in ("AP50", "AP25", "AP75"):
        others = [m[metric][0] for way, m in measured.items() if way not in ours]
        for way, metrics in measured.items():
            value, low, high = metrics[metric]
            span = {"low": round(low, 4), "high": round(high, 4)}
            print_figure(
                f"weak_{way}_{metric}", value, "", max(others) if way in ours else None, **span, **place
            )
    for part, spent in seconds.items():
        print_figure(f"weak_seconds_{part}", spent, "s", None, **place)


def ways(bag: Any, with_integrity: Any, without: Any, settings: CimSettings) -> dict[str, Instances]:
    """What each way finds on one picture."""
    import torch

    from ml_backend.learners.weak.predictor import head_scores
    from ml_backend.learners.weak.selection import select

    iou, cover = bag.iou.astype(np.float32), bag.cover.astype(np.float32)
    small = ~bag.big[:, None]
    classes, integrity, _ = head_scores(with_integrity, bag.features, bag.prior)
    plain, _, _ = head_scores(without, bag.features, bag.prior)
    with torch.inference_mode():
        mil = without(torch.from_numpy(bag.features), [len(bag)])[0].mil_class[:, 1:].numpy()
    objectness = np.zeros_like(classes)
    objectness[:, 0] = bag.prior

    def chosen(score: Floats, threshold: float) -> Instances:
        kept = select(score * small, iou, cover, threshold=threshold, nms=settings.nms)
        return _instances(bag, kept.place, kept.label, score[kept.place, kept.label])

    best = mil.argmax(axis=0).astype(np.int64)
    label = np.arange(mil.shape[1], dtype=np.int64)
    return {
        "mined": chosen(classes * integrity, settings.score_threshold),
        "best_of_tag": _instances(bag, best, label, mil[best, label]),
        "above_score": chosen(mil, 0.5),
        "no_integrity": chosen(plain, settings.score_threshold),
        "objectness": chosen(objectness, settings.score_threshold),
    }


def _instances(
    bag: Any, place: npt.NDArray[np.int64], label: npt.NDArray[np.int64], score: Floats
) -> Instances:
    from ml_backend.learners.weak.proposals import rle_at

    rles = [rle_at(bag.crops[i], bag.work_hw, bag.hw) for i in place.tolist()]
    n = len(rles)
    box = np.array([rle_box(rle) for rle in rles], np.float32).reshape(-1, 4)
    return Instances(label, box, rles, score, np.ones(n, np.float32), np.zeros((n, 0), np.float32))


def _predicted(folder: Path, truth: Sequence[Example]) -> list[Instances]:
    from ml_backend.images.decode import read_image

    predictor = MaskRcnn().load(folder, device="cpu")
    found = []
    for example in truth:
        (instances,) = predictor.predict([read_image(example.image)])
        found.append(instances)
    return found


def _ceiling(pool: Sequence[Any], truth: Sequence[Example]) -> float:
    from ml_backend.learners.weak.proposals import rle_at

    fits: list[npt.NDArray[np.bool_]] = []
    for bag, example in zip(pool, truth, strict=True):
        rles = [rle_at(crop, bag.work_hw, bag.hw) for crop in bag.crops]
        if example.rle:
            fits.append(rle_iou(rles, list(example.rle)).max(axis=0) >= 0.5)
    return float(np.concatenate(fits).mean()) if fits else float("nan")


def _quiet(share: float, line: str) -> None:
    """Progress that nobody reads."""


if __name__ == "__main__":
    main()
