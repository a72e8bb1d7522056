"""Masks per class: IoU and Dice of the learner ``deeplabv3``, beside a bare torchvision loop and Otsu.

    python -m bench.segmentation --images cells/images --coco cells/annotations.json --train-images 20
    python -m bench.segmentation --quick        # drawn pictures, a few steps

All objects of a picture are one label, foreground. One line of JSON per figure: name, value, unit, baseline,
ratio. Baselines, on the same pictures:

- torchvision: its deeplabv3_mobilenet_v3_large with one channel from random weights, sigmoid focal loss with
  its defaults, Adam 1e-3; as many steps of as many crops of the same size, mirrored, at the pictures' own
  scale; threshold one half;
- otsu: Otsu's threshold, bright or dark as fits the training pictures better.

The rank correlation is Spearman's, of what the learner predicts for a picture (``quality``: the IoU,
``score``: the mean probability inside the mask) with the true IoU of that picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
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
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.segmentation.evaluation import evaluate_masks
from ml_backend.learners.segmentation.learner import DeepLabV3
from ml_backend.learners.segmentation.settings import TrainSettings, train_settings
from ml_backend.masks.rle import decode_rle, encode_mask, rle_box, rle_iou
from ml_backend.masks.shapes import union_rle

Mask = npt.NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--train-images", type=int, default=20)
    parser.add_argument("--test-images", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="10 steps on 6 images: a test of the benchmark")
    parser.add_argument("--no-torchvision", action="store_true", help="leave the bare loop out")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the learner")
    parser.add_argument("--keep", type=Path, help="leave the trained version in this folder")
    options = parser.parse_args()
    with_training_environment("bench.segmentation")
    chosen = {"weights": "none", **dict(pair.split("=", 1) for pair in options.option)}
    if options.quick:
        options.train_images, options.test_images = 6, 3
        chosen = {"iterations": "10", "batch": "2", "size": "64", "max_side": "128", **chosen}
    settings = train_settings("light", chosen)
    with tempfile.TemporaryDirectory() as scratch:
        name, _, examples = load_examples(options, Path(scratch))
        train, test = split(foreground(examples), options.test_images, options.train_images)
        place = {"set": name, "images": len(train), "test_images": len(test), "seed": options.seed}
        place |= {"iterations": settings.iterations, "size_px": settings.size}
        otsu = masks_as_rows(find_otsu(train, test))
        report("otsu", otsu, test, **place)
        version = options.keep or Path(scratch) / "version"
        spec = TrainSpec(("foreground",), train, test, seed=options.seed, options=chosen)
        began = time.monotonic(), time.process_time()
        DeepLabV3().train(spec, version, lambda share, line: None)
        spent = {"seconds": time.monotonic() - began[0], "cpu_seconds": time.process_time() - began[1]}
        predictor = DeepLabV3().load(version)
        fitted = predictor.config
        found = [next(predictor.predict([read_image(e.image)])) for e in test]
        report("deeplabv3", found, test, **place, **{k: round(v, 1) for k, v in spent.items()})
        correlate(found, test, **place)
        plain = {"threshold": (0.5,), "calibration": ((1.0, 0.0),)}
        predictor.config = dataclasses.replace(fitted, **plain)
        raw = [next(predictor.predict([read_image(e.image)])) for e in test]
        report("deeplabv3_threshold_0.5", raw, test, **place)
        correlate(raw, test, calibrated=False, **place)
    if not options.no_torchvision:
        began = time.monotonic(), time.process_time()
        theirs = torchvision_masks(settings, train, test, options.seed)
        spent = {"seconds": time.monotonic() - began[0], "cpu_seconds": time.process_time() - began[1]}
        report(
            "torchvision", masks_as_rows(theirs), test, **place, **{k: round(v, 1) for k, v in spent.items()}
        )


def foreground(examples: Sequence[Example]) -> list[Example]:
    """The same pictures with one label for all objects."""
    return [dataclasses.replace(example, label=(0,) * len(example.rle)) for example in examples]


def report(name: str, found: Sequence[Instances], test: Sequence[Example], **more: object) -> None:
    """IoU and Dice with their intervals."""
    metrics = evaluate_masks(found, test, ("foreground",)).metrics
    for metric in ("IoU", "Dice"):
        value, low, high = metrics[metric]
        print_figure(f"{name}_{metric}", value, "", None, low=round(low, 4), high=round(high, 4), **more)


def correlate(found: Sequence[Instances], test: Sequence[Example], **more: object) -> None:
    """Rank correlation of what was predicted for each picture with its true IoU."""
    rows = [
        (rows.quality[0], rows.score[0], rle_iou(rows.rle, [union_rle(example.rle)])[0, 0])
        for rows, example in zip(found, test, strict=True)
        if len(rows) and example.rle
    ]
    quality, score, true = np.array(rows, np.float64).reshape(-1, 3).T
    for name, column in (("quality", quality), ("score", score)):
        value = float(spearmanr(column, true).statistic) if len(true) > 2 else float("nan")
        off = float(np.abs(column - true).mean()) if len(true) else float("nan")
        print_figure(f"rank_correlation_{name}", value, "", None, mean_error=round(off, 4), **more)


def truth_of(example: Example, hw: tuple[int, int]) -> Mask:
    """(H, W) bool, all objects of a picture."""
    return decode_rle(union_rle(example.rle)) if example.rle else np.zeros(hw, np.bool_)


def masks_as_rows(masks: Sequence[Mask]) -> list[Instances]:
    """One row per picture that has any pixel."""
    return [
        Instances(
            np.zeros(1, np.int64),
            np.array([rle_box(encode_mask(mask))], np.float32),
            [encode_mask(mask)],
            np.ones(1, np.float32),
            np.ones(1, np.float32),
            np.zeros((1, 0), np.float32),
        )
        if mask.any()
        else Instances.empty()
        for mask in masks
    ]


def find_otsu(train: Sequence[Example], test: Sequence[Example]) -> list[Mask]:
    """Masks of the test pictures, dark or bright as fits the training pictures better."""

    def masks(examples: Sequence[Example], dark: bool) -> list[Mask]:
        kind = cv2.THRESH_BINARY_INV if dark else cv2.THRESH_BINARY
        grey = [cv2.cvtColor(read_image(example.image), cv2.COLOR_RGB2GRAY) for example in examples]
        return [np.asarray(cv2.threshold(g, 0, 255, kind + cv2.THRESH_OTSU)[1] > 0, np.bool_) for g in grey]

    def iou(dark: bool) -> float:
        return evaluate_masks(masks_as_rows(masks(train, dark)), train, ("x",), resamples=1).metrics["IoU"][0]

    return masks(test, iou(True) > iou(False))


def torchvision_masks(
    settings: TrainSettings, train: Sequence[Example], test: Sequence[Example], seed: int
) -> list[Mask]:
    """Masks of the test pictures by a loop as people write it with torchvision alone."""
    import torch
    from torchvision import tv_tensors
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large
    from torchvision.ops import sigmoid_focal_loss
    from torchvision.transforms import v2

    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    side = settings.size
    turned = v2.Compose(
        [v2.RandomCrop(side, pad_if_needed=True), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    )
    scaled = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    pixels = [torch.from_numpy(read_image(e.image)).permute(2, 0, 1) for e in train]
    masks = [
        torch.from_numpy(truth_of(e, (int(p.shape[1]), int(p.shape[2]))))
        for e, p in zip(train, pixels, strict=True)
    ]
    rng = np.random.default_rng(seed)
    for _ in range(settings.iterations):
        crops = [
            turned(tv_tensors.Image(pixels[i]), tv_tensors.Mask(masks[i]))
            for i in rng.integers(0, len(train), settings.batch)
        ]
        batch = torch.stack([scaled(image) for image, _ in crops])
        target = torch.stack([mask for _, mask in crops])[:, None].float()
        loss = sigmoid_focal_loss(model(batch)["out"], target, reduction="mean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.inference_mode():
        shown = [scaled(torch.from_numpy(read_image(e.image)).permute(2, 0, 1))[None] for e in test]
        return [np.asarray(model(image)["out"][0, 0].sigmoid().numpy() > 0.5, np.bool_) for image in shown]


if __name__ == "__main__":
    main()
