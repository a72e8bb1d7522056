"""Training speed of the light Mask R-CNN and what it learns: iterations per second beside AP.

    python -m bench.train --images cells/images --coco cells/annotations.json --train-images 40

Trains once in a process of its own, as the worker does, with one thread per core. One line of JSON per
figure: name, value, unit, baseline, ratio. Baseline of the speed: torchvision's MobileNetV3-large
Mask R-CNN at 320 px and batch 2, stepped in the same run on this machine (images per second).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.coco import load_coco
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.train_job import run_training


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--train-images", type=int, default=40)
    parser.add_argument("--test-images", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the learner")
    options = parser.parse_args()
    data = load_coco(options.images, options.coco)
    examples = data.examples()
    order = np.random.default_rng(options.seed).permutation(len(examples))
    test = [examples[i] for i in order[: options.test_images]]
    train = [examples[i] for i in order[options.test_images :][: options.train_images]]
    chosen: dict[str, Any] = {"weights": "none", **dict(pair.split("=", 1) for pair in options.option)}
    spec = TrainSpec(data.categories, tuple(train), tuple(test), seed=options.seed, options=chosen)
    steps: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        report = run_training(
            "maskrcnn", spec, Path(scratch) / "v", lambda share, line: steps.append((share, time.monotonic()))
        )
        seconds = time.monotonic() - started
    fitting = [at for share, at in steps if share <= 0.9]
    batch = int(chosen.get("batch", 4))
    pace = report.iterations * batch / max(fitting[-1] - fitting[0], 1e-9)
    baseline = torchvision_pace()
    place = {"images": len(train), "test_images": len(test), "set": options.coco.parent.name}
    _print("train_images_per_second", pace, "crop/s", baseline, **place)
    _print("train_seconds", seconds, "s", None, iterations=report.iterations, **place)
    for name in ("AP", "AP50", "AP75"):
        value, low, high = report.evaluation.metrics[name]
        _print(f"train_{name}", value, "", None, low=round(low, 4), high=round(high, 4), **place)


def torchvision_pace(*, steps: int = 6) -> float:
    """Images per second of torchvision's own light detector (320 px, batch 2, fp32), training."""
    import torch
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import mobilenet_backbone

    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6
    )
    from torchvision.models.detection.rpn import AnchorGenerator

    anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    model = MaskRCNN(
        backbone, num_classes=2, rpn_anchor_generator=anchors, min_size=320, max_size=320
    ).train()
    masks = torch.zeros(10, 320, 320, dtype=torch.uint8)
    boxes = torch.rand(10, 4) * 200
    boxes[:, 2:] = boxes[:, :2] + 30
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    target = {"boxes": boxes, "labels": torch.ones(10, dtype=torch.int64), "masks": masks}
    started = 0.0
    for step in range(steps + 2):
        if step == 2:
            started = time.monotonic()
        losses = model([torch.rand(3, 320, 320)] * 2, [target] * 2)
        sum(losses.values()).backward()
        model.zero_grad()
    return 2 * steps / (time.monotonic() - started)


def _print(name: str, value: float, unit: str, baseline: float | None, **more: Any) -> None:
    ratio = None if baseline is None else round(value / baseline, 3)
    shown = None if baseline is None else round(baseline, 4)
    print(
        json.dumps(
            {"name": name, "value": round(value, 4), "unit": unit, "baseline": shown, "ratio": ratio, **more}
        )
    )


if __name__ == "__main__":
    main()
