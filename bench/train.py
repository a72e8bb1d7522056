"""Training speed of the light Mask R-CNN and what it learns: crops per second beside AP.

    python -m bench.train --images cells/images --coco cells/annotations.json --train-images 40
    python -m bench.train --quick        # drawn pictures, a few steps

Trains once in a process of its own, as the worker does. One line of JSON per figure: name, value, unit,
baseline, ratio. Baselines, all of the same run:

- of the speed: torchvision's own MobileNetV3-large Mask R-CNN with its FPN of 256 channels, fed with crops of
  the same size, as many per step, with as many instances, on as many threads, optimiser step included;
  stepped before and after our training, the faster of the two counts;
- of AP: Otsu's threshold and connected components, bright or dark as fits the training pictures better,
  every blob of the commonest label;
- of the predicted IoU: the guess from the pixels' probabilities, of the same network and the same masks
  (rank correlation with the true IoU over the masks of the test pictures with a score of 0.1 or more).

``train_good_share`` and ``train_objects_found`` are the share of these masks that are good (IoU 0.75), and of
the true objects for which there is a good one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bench.detection_set import (
    add_arguments,
    load_examples,
    print_figure,
    split,
    with_training_environment,
)
from ml_backend.artifacts.files import read_json, write_json
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.evaluation import evaluate, match_iou
from ml_backend.learners.maskrcnn.settings import TrainSettings, train_settings
from ml_backend.learners.registry import get_learner
from ml_backend.learners.training_job import run_training
from ml_backend.learners.version_files import CONFIG, WEIGHTS
from ml_backend.learners.weights import read_weights, save_weights
from ml_backend.masks.rle import encode_mask

_MIN_AREA_PX = 20
_MIN_SCORE, _GOOD_IOU = 0.1, 0.75

Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--train-images", type=int, default=40)
    parser.add_argument("--test-images", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="20 steps on 8 images: a test of the benchmark")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the learner")
    parser.add_argument("--keep", type=Path, help="leave the trained version in this folder")
    options = parser.parse_args()
    with_training_environment("bench.train")
    chosen: dict[str, Any] = {"weights": "none", **dict(pair.split("=", 1) for pair in options.option)}
    if options.quick:
        options.train_images, options.test_images = 8, 4
        chosen.setdefault("iterations", 20)
    settings = train_settings("light", chosen)
    with tempfile.TemporaryDirectory() as scratch:
        name, labels, examples = load_examples(options, Path(scratch))
        train, test = split(examples, options.test_images, options.train_images)
        spec = TrainSpec(labels, train, test, seed=options.seed, options=chosen)
        instances = round(float(np.mean([len(example.rle) for example in train])))
        theirs = torchvision_pace(settings, instances=instances)
        steps: list[tuple[float, float]] = []
        started = time.monotonic()
        report = run_training(
            "maskrcnn",
            spec,
            options.keep or Path(scratch) / "version",
            lambda share, line: steps.append((share, time.monotonic())),
        )
        seconds = time.monotonic() - started
        theirs = max(theirs, torchvision_pace(settings, instances=instances))
        blobs = evaluate(find_blobs(train, test), test, labels).metrics
        version = options.keep or Path(scratch) / "version"
        judged = judge(version, guessing(version, Path(scratch) / "guessing"), test)
    # reading pictures and the first twentieth of the steps (buffers, threads) are left out, as below
    fitting = [(share, at) for share, at in steps if 0 < share <= 0.9]
    first, last = fitting[0], fitting[-1]
    pace = (last[0] - first[0]) / 0.9 * report.iterations * settings.batch / (last[1] - first[1])
    place = {"set": name, "images": len(train), "iterations": report.iterations, "size_px": settings.size}
    print_figure("train_crops_per_second", pace, "crop/s", theirs, seconds=round(seconds, 1), **place)
    for metric in ("AP", "AP50", "AP75"):
        value, low, high = report.evaluation.metrics[metric]
        span = {"low": round(low, 4), "high": round(high, 4), "test_images": len(test)}
        print_figure(f"train_{metric}", value, "", blobs[metric][0], **span, **place)
    for name, value, baseline in judged:
        print_figure(f"train_{name}", value, "", baseline, test_images=len(test), **place)


def judge(version: Path, plain: Path, test: Sequence[Example]) -> list[tuple[str, float, float | None]]:
    """Name, value and baseline of the figures about single masks."""
    from scipy.stats import kendalltau, spearmanr

    columns: list[list[Floats]] = []
    found_objects = []
    learned, guessed = (get_learner("maskrcnn").load(folder) for folder in (version, plain))
    for example in test:
        image = read_image(example.image)
        found, same = (next(iter(predictor.predict([image]))) for predictor in (learned, guessed))
        kept = found.score >= _MIN_SCORE
        found, same = found.take(kept), same.take(kept)
        iou = match_iou(found, example)
        columns.append([iou, found.quality, same.quality])
        n = len(example.rle)  # each object's best mask, by the same rule with the sides exchanged
        ones, boxes, no_embedding = np.ones(n, np.float32), np.zeros((n, 4), np.float32), np.zeros((n, 0))
        turned = Instances(
            np.asarray(example.label, np.int64),
            boxes,
            example.rle,
            ones,
            ones,
            no_embedding.astype(np.float32),
        )
        mine = Example(example.task_id, example.image, tuple(found.label.tolist()), tuple(found.rle))
        found_objects.append(match_iou(turned, mine))
    iou, head, guess = (np.concatenate(column) for column in zip(*columns, strict=True))
    return [
        ("good_share", float((iou >= _GOOD_IOU).mean()), None),
        ("objects_found", float((np.concatenate(found_objects) >= _GOOD_IOU).mean()), None),
        ("quality_spearman", float(spearmanr(head, iou)[0]), float(spearmanr(guess, iou)[0])),
        ("quality_kendall", float(kendalltau(head, iou)[0]), float(kendalltau(guess, iou)[0])),
    ]


def guessing(version: Path, out: Path) -> Path:
    """The same version without its head for the IoU: it guesses the IoU from the pixels."""
    out.mkdir()
    weights = read_weights(version / WEIGHTS)
    save_weights({k: v for k, v in weights.items() if "quality_head" not in k}, out / WEIGHTS)
    write_json(out / CONFIG, read_json(version / CONFIG) | {"quality_head": False})
    return out


def torchvision_pace(settings: TrainSettings, *, instances: int, steps: int = 6, warm: int = 2) -> float:
    """Crops per second of torchvision's own light detector in training."""
    import torch
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import mobilenet_backbone
    from torchvision.models.detection.rpn import AnchorGenerator

    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    side, n = settings.size, max(1, instances)
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6
    )
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    model = MaskRCNN(
        backbone, num_classes=2, rpn_anchor_generator=anchors, min_size=side, max_size=side
    ).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    boxes = (torch.rand(n, 4) * (side - 40)).round()
    boxes[:, 2:] = boxes[:, :2] + 30
    masks = torch.zeros(n, side, side, dtype=torch.uint8)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    target = {"boxes": boxes, "labels": torch.ones(n, dtype=torch.int64), "masks": masks}
    started = 0.0
    for step in range(steps + warm):
        if step == warm:
            started = time.monotonic()
        losses = model([torch.rand(3, side, side)] * settings.batch, [target] * settings.batch)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    return settings.batch * steps / (time.monotonic() - started)


def find_blobs(train: Sequence[Example], test: Sequence[Example]) -> list[Instances]:
    """Blobs of the test pictures."""
    label = Counter(number for example in train for number in example.label).most_common(1)[0][0]

    def ap(dark: bool) -> float:
        same = [Example(e.task_id, e.image, (0,) * len(e.rle), e.rle) for e in train]
        return evaluate([_blobs(e, 0, dark) for e in same], same, ("x",), resamples=1).metrics["AP"][0]

    is_dark = ap(True) > ap(False)
    return [_blobs(example, label, is_dark) for example in test]


def _blobs(example: Example, label: int, dark: bool) -> Instances:
    grey = cv2.cvtColor(read_image(example.image), cv2.COLOR_RGB2GRAY)
    kind = cv2.THRESH_BINARY_INV if dark else cv2.THRESH_BINARY
    parts = cv2.connectedComponentsWithStats(cv2.threshold(grey, 0, 255, kind + cv2.THRESH_OTSU)[1])
    rows = [i for i in range(1, parts[0]) if parts[2][i, cv2.CC_STAT_AREA] >= _MIN_AREA_PX]
    if not rows:
        return Instances.empty(0)
    x, y, width, height, area = parts[2][rows].T
    return Instances(
        np.full(len(rows), label, np.int64),
        np.stack([x, y, x + width, y + height], axis=1).astype(np.float32),
        [encode_mask(parts[1] == i) for i in rows],
        (area / (area.max() + 1)).astype(np.float32),
        np.ones(len(rows), np.float32),
        np.zeros((len(rows), 0), np.float32),
    )


if __name__ == "__main__":
    main()
