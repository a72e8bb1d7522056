"""Box learners on equal terms: AP of boxes, CPU seconds of training and of a picture, predicted IoU.

    python -m bench.boxes --images cells/images --coco cells/annotations.json --learner fcos
    python -m bench.boxes --quick        # drawn pictures, a few steps

One line of JSON per figure: name, value, unit, baseline, ratio. The rank correlations are Spearman's with
the true IoU, over detections that overlap a true box of their label by more than 0.3.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bench.detection_set import (
    add_arguments,
    load_examples,
    print_figure,
    split,
    with_training_environment,
)
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.kinds.boxes import BOXES, boxes_around
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.evaluation import evaluate, match_iou
from ml_backend.learners.registry import get_learner

OVERLAPS = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--train-images", type=int, default=40)
    parser.add_argument("--test-images", type=int, default=60)
    parser.add_argument("--learner", choices=BOXES.learners, default=BOXES.learners[0])
    parser.add_argument("--quick", action="store_true", help="5 steps on 6 images: a test of the benchmark")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the learner")
    options = parser.parse_args()
    with_training_environment("bench.boxes")
    chosen = {"weights": "none", "threads": "1", **dict(pair.split("=", 1) for pair in options.option)}
    if options.quick:
        options.train_images, options.test_images = 6, 3
        chosen = {"iterations": "5", "batch": "2", "size": "64", "channels": "16", **chosen}
    learner = get_learner(options.learner)
    with tempfile.TemporaryDirectory() as scratch:
        name, labels, examples = load_examples(options, Path(scratch))
        train, test = split([boxed(e) for e in examples], options.test_images, options.train_images)
        version = Path(scratch) / "version"
        began = time.process_time()
        spec = TrainSpec(labels, train, (), device="cpu", seed=options.seed, options=chosen)
        report = learner.train(spec, version, lambda share, line: None)
        place = {"learner": options.learner, "set": name, "images": len(train), "test_images": len(test)}
        place |= {"iterations": report.iterations, "seed": options.seed}
        print_figure("train", time.process_time() - began, "CPU s", None, **place)
        predictor = learner.load(version, device="cpu")
        pictures = [read_image(example.image) for example in test]
        began = time.process_time()
        found = [next(predictor.predict([picture])) for picture in pictures]
        print_figure("picture", (time.process_time() - began) / len(test), "CPU s", None, **place)
    metrics = evaluate(found, test, labels, iou="bbox").metrics
    for metric, (value, low, high) in metrics.items():
        print_figure(metric, value, "", None, low=round(low, 4), high=round(high, 4), **place)
    correlate(found, test, **place)


def boxed(example: Example) -> Example:
    """The box around each object."""
    around = boxes_around([(str(label), rle) for label, rle in zip(example.label, example.rle, strict=True)])
    return Example(example.task_id, example.image, example.label, tuple(rle for _, rle in around))


def correlate(found: Sequence[Instances], test: Sequence[Example], **place: object) -> None:
    """Rank correlation of the predicted IoU, and of the score, with the true IoU."""
    iou = np.concatenate([match_iou(one, truth) for one, truth in zip(found, test, strict=True)])
    real = iou > OVERLAPS
    if real.sum() < 3:
        return
    score = np.concatenate([one.score for one in found])[real]
    quality = np.concatenate([one.quality for one in found])[real]
    baseline = float(spearmanr(score, iou[real])[0])
    print_figure("rank_correlation_quality", float(spearmanr(quality, iou[real])[0]), "", baseline, **place)


if __name__ == "__main__":
    main()
