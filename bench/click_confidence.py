"""Fit and check the score that ``classical`` gives its masks: ``python -m bench.click_confidence DATA``.

DATA is a folder of COCO sets (``NAME/images``, ``NAME/annotations.json``). Simulated users click masks of
each set. On half of the pictures of ``--fit`` sets the weights of ``mask_confidence`` are fitted; on the
other half, and on the sets of ``--held-back``, the score is compared with the true IoU. Prints one JSON
object: weights, and for each held-back part the mean absolute error, the calibration error, and the mean IoU
in bins of the score, beside those of the constant that was shown before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from scipy.optimize import minimize

from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.evaluation.experiment import ClickExperiment, pick_targets, split_images
from ml_backend.clicks.evaluation.robots import ritm_robot
from ml_backend.clicks.evaluation.simulated_clicks import ClickTarget, mask_iou
from ml_backend.clicks.segmenters.classical import ClassicalSegmenter
from ml_backend.clicks.segmenters.mask_confidence import FEATURES, mask_features
from ml_backend.clicks.start_masks import start_mask_from
from ml_backend.images.decode import read_image
from ml_backend.masks.coco import load_coco

__all__ = ["calibration", "fit"]

Floats = npt.NDArray[np.float64]
_CLICKS, _STOP = 8, 0.95


def collect(targets: Sequence[ClickTarget], *, clicks: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """(features, IoU, number of the picture) of every mask on the way."""
    segmenter = ClassicalSegmenter()
    rows: list[Floats] = []
    ious: list[float] = []
    pictures: list[int] = []
    paths = sorted({target.image for target in targets})
    for number, path in enumerate(paths):
        pixels = read_image(path)
        embedding = segmenter.embed(pixels)
        for target in (t for t in targets if t.image == path):
            truth = coco_mask.decode(target.rle).astype(np.bool_)
            shown = np.zeros(truth.shape, np.bool_)
            start: StartMask | None = None
            points: tuple[tuple[float, float, bool], ...] = ()
            for _ in range(clicks):
                found = ritm_robot(shown, truth, [(int(p[0]), int(p[1])) for p in points])
                if found is None or mask_iou(shown, truth) >= _STOP:
                    break
                points = (*points, (float(found.x), float(found.y), found.positive))
                before = shown
                shown = segmenter.segment(embedding, Prompt(points, None, ""), start).masks[0]
                start = start_mask_from(shown, from_proposal=False)
                if shown.any():
                    rows.append(mask_features(pixels, shown, clicks=len(points), before=before))
                    ious.append(mask_iou(shown, truth))
                    pictures.append(number)
    return np.stack(rows), np.array(ious), np.array(pictures)


def fit(features: Floats, ious: Floats, weight: Floats, *, ridge: float = 1e-3) -> tuple[Floats, float]:
    """Weights and bias of a logistic regression with fractional outcomes, for features as they are."""
    mean, spread = features.mean(0), features.std(0) + 1e-9
    x = np.column_stack([(features - mean) / spread, np.ones(len(features))])

    def loss(w: Floats) -> tuple[float, Floats]:
        z = x @ w
        value = weight @ (np.logaddexp(0.0, z) - ious * z) / weight.sum() + ridge * (w[:-1] @ w[:-1])
        p = 1.0 / (1.0 + np.exp(-z))
        slope = x.T @ (weight * (p - ious)) / weight.sum()
        slope[:-1] += 2 * ridge * w[:-1]
        return float(value), slope

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    scaled = found[:-1] / spread
    return scaled, float(found[-1] - mean @ scaled)


def calibration(score: Floats, ious: Floats, pictures: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Mean absolute error, calibration error over five bins of equal size, rank correlation, and the bins."""
    order = np.argsort(score, kind="stable")
    bins = [
        {"score": round(float(score[i].mean()), 3), "iou": round(float(ious[i].mean()), 3), "n": len(i)}
        for i in np.array_split(order, 5)
    ]
    gap = sum(abs(b["score"] - b["iou"]) * b["n"] for b in bins) / len(score)
    ranks = [np.argsort(np.argsort(v, kind="stable")) for v in (score, ious)]
    return {
        "masks": len(score),
        "pictures": len(np.unique(pictures)),
        "mean absolute error": round(float(np.abs(score - ious).mean()), 3),
        "calibration error": round(gap, 3),
        "rank correlation": round(float(np.corrcoef(*ranks)[0, 1]), 3) if np.ptp(score) > 0 else 0.0,
        "bins": bins,
    }


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--fit", nargs="+", default=["nuclei_dsb2018_a", "mushrooms", "bsds500_segments"])
    parser.add_argument("--held-back", nargs="+", default=["coco_natural_a"])
    parser.add_argument("--limit", type=int, default=100, help="masks of each part")
    asked = parser.parse_args()
    fitted, checked = {}, {}
    for name in (*asked.fit, *asked.held_back):
        folder = asked.data / name
        data = load_coco(folder / "images", folder / "annotations.json")
        share = 0.5 if name in asked.fit else 0.0
        split = split_images(data, train_fraction=share, seed=0)
        wanted = ClickExperiment(limit=asked.limit)
        if split.train:
            fitted[name] = collect(pick_targets(split.train, data.categories, wanted, {}), clicks=_CLICKS)
        checked[name] = collect(pick_targets(split.test, data.categories, wanted, {}), clicks=_CLICKS)
    features = np.concatenate([part[0] for part in fitted.values()])
    ious = np.concatenate([part[1] for part in fitted.values()])
    weight = np.concatenate([np.full(len(part[1]), 1.0 / len(part[1])) for part in fitted.values()])
    weights, bias = fit(features, ious, weight)
    report = {}
    for name, (x, y, pictures) in checked.items():
        score = 1.0 / (1.0 + np.exp(-(x @ weights + bias)))
        first = x[:, FEATURES.index("clicks")] < np.log1p(1.5)
        old = np.where(first, 0.6, 0.7)
        report[name] = {"score": calibration(score, y, pictures), "constant": calibration(old, y, pictures)}
    print(
        json.dumps(
            {
                "weights": {n: round(float(w), 4) for n, w in zip(FEATURES, weights, strict=True)},
                "bias": round(bias, 4),
                "held back": report,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
