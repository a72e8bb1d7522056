"""Pool inference: images per second of a trained version, and how well it knows which masks are good.

    python -m bench.infer --model VERSION_FOLDER --images cells/images --coco cells/annotations.json
    python -m bench.infer --quick        # drawn pictures and a version trained for a few steps

One line of JSON per figure: name, value, unit, baseline, ratio. Baseline of the speed: the same weights
through torchvision's own forward pass and mask pasting, in the same run. ``infer_edges_ms`` is what the edge
statistics of a mask take, beside its share of the prediction. The quality lines say how well
score, quality and their product rank true IoU (area under the ROC curve for IoU ≥ 0.75) beside chance; they
are null where no mask, or every mask, is good.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.detection_set import (
    add_arguments,
    load_examples,
    print_figure,
    split,
    with_training_environment,
)
from ml_backend.examples import Example
from ml_backend.images.decode import read_image
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.evaluation import match_iou
from ml_backend.learners.maskrcnn.learner import MaskRcnn
from ml_backend.learners.training_job import run_training
from ml_backend.masks.edges import edge_statistics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--model", type=Path, help="folder of a trained version (default: one is trained)")
    parser.add_argument("--iterations", type=int, default=300, help="of the version trained here")
    parser.add_argument("--limit", type=int, default=20, help="images measured (default: 20)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="6 images, 20 steps: a test of the benchmark")
    options = parser.parse_args()
    with_training_environment("bench.infer")
    if options.quick:
        options.limit, options.iterations = 6, 20
    with tempfile.TemporaryDirectory() as scratch:
        name, labels, examples = load_examples(options, Path(scratch))
        train, measured = split(examples, options.limit, len(examples))
        folder = options.model
        if folder is None:
            folder = Path(scratch) / "version"
            chosen = {"weights": "none", "iterations": options.iterations}
            spec = TrainSpec(labels, train, (), seed=options.seed, options=chosen, device=options.device)
            run_training("maskrcnn", spec, folder, lambda share, line: None)
        measure(folder, measured, device=options.device, name=name)


def measure(folder: Path, examples: Sequence[Example], *, device: str, name: str) -> None:
    """Print the figures of one version on these pictures."""
    import torch

    images = [read_image(example.image) for example in examples]
    predictor = MaskRcnn().load(folder, device=device)
    model = predictor._model

    def theirs() -> None:
        with torch.inference_mode():
            for image in images:
                result = model([predictor._prepare(image)])[0]
                _ = (result["masks"] > 0.5).cpu().numpy()

    next(predictor.predict(images[:1]))
    before = _seconds(theirs)
    started = time.perf_counter()
    found = list(predictor.predict(images))
    ours = time.perf_counter() - started
    baseline = len(images) / min(before, _seconds(theirs))
    count = sum(len(instances) for instances in found)
    place = {"set": name, "images": len(images), "instances": count}
    print_figure("infer_images_per_second", len(images) / ours, "image/s", baseline, **place)
    started = time.perf_counter()
    for image, instances in zip(images, found, strict=True):
        edge_statistics(image, instances.rle)
    edges = time.perf_counter() - started
    each = 1000 / max(count, 1)
    print_figure("infer_edges_ms", edges * each, "ms/mask", ours * each, **place)
    iou = np.concatenate([match_iou(a, b) for a, b in zip(found, examples, strict=True)])
    score = np.concatenate([instances.score for instances in found])
    quality = np.concatenate([instances.quality for instances in found])
    good = int((iou >= 0.75).sum())
    for what, value in (("score", score), ("quality", quality), ("prior", score * quality)):
        print_figure(f"infer_auc_{what}", _auc(value, iou >= 0.75), "", 0.5, good=good, **place)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _auc(value: npt.NDArray[np.float32], good: npt.NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    n, positives = len(good), int(good.sum())
    if positives in (0, n):
        return float("nan")
    ranks = rankdata(value)[good].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (n - positives)))


if __name__ == "__main__":
    main()
