"""Pool inference: images per second of a trained version, where the time goes, and embeddings' worth.

    python -m bench.infer --model VERSION_FOLDER --images cells/images --coco cells/annotations.json

One line of JSON per figure: name, value, unit, baseline, ratio. Baseline: the same weights through
torchvision's own forward pass and mask pasting, in the same run. The quality lines say how well score,
quality and their product rank true IoU (area under the ROC curve for IoU ≥ 0.75; 0.5 = chance).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ml_backend.coco import load_coco
from ml_backend.evaluation import match_iou
from ml_backend.learners.maskrcnn import MaskRcnn
from ml_backend.learners.samples import read_rgb


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20, help="images measured (default: 20)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    examples = load_coco(options.images, options.coco).examples()
    order = np.random.default_rng(0).permutation(len(examples))[: options.limit]
    examples = [examples[i] for i in order]
    images = [read_rgb(example.image) for example in examples]
    predictor = MaskRcnn().load(options.model, device=options.device)
    next(predictor.predict(images[:1]))
    started = time.perf_counter()
    found = list(predictor.predict(images))
    ours = len(images) / (time.perf_counter() - started)
    model = predictor._model
    started = time.perf_counter()
    with torch.inference_mode():
        for image in images:
            result = model([predictor._prepare(image)])[0]
            _ = (result["masks"] > 0.5).cpu().numpy()
    theirs = len(images) / (time.perf_counter() - started)
    count = sum(len(instances) for instances in found)
    _print("infer_images_per_second", ours, "image/s", theirs, instances=count, images=len(images))
    iou = np.concatenate([match_iou(a, b) for a, b in zip(found, examples, strict=True)])
    score = np.concatenate([instances.score for instances in found])
    quality = np.concatenate([instances.quality for instances in found])
    for name, value in (("score", score), ("quality", quality), ("prior", score * quality)):
        _print(f"infer_auc_{name}", _auc(value, iou >= 0.75), "", 0.5, instances=count)


def _auc(value: npt.NDArray[np.float32], good: npt.NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    n, positives = len(good), int(good.sum())
    if positives in (0, n):
        return float("nan")
    ranks = rankdata(value)[good].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (n - positives)))


def _print(name: str, value: float, unit: str, baseline: float, **more: Any) -> None:
    line = {"name": name, "value": round(value, 4), "unit": unit, "baseline": round(baseline, 4)}
    print(json.dumps({**line, "ratio": round(value / baseline, 3), **more}))


if __name__ == "__main__":
    main()
