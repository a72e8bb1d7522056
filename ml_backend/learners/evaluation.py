"""COCO average precision with bootstrap intervals, and the IoU of each instance with its true mask."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as coco_mask

from ml_backend.examples import Example
from ml_backend.instances import Instances, Rle
from ml_backend.learners.base import Evaluation

__all__ = ["evaluate", "match_iou"]

logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
_EVERY_AREA = [[0.0, 1e10]]
_OVERALL: Final = (("AP", slice(None)), ("AP50", slice(0, 1)), ("AP75", slice(5, 6)))
_BY_LABEL: Final = (("AP", slice(None)), ("AP50", slice(0, 1)))
"""Metrics over all labels and of one, with the IoU thresholds that each is the mean over."""


def match_iou(found: Instances, truth: Example) -> npt.NDArray[np.float32]:
    """(n,) float32: highest IoU of each mask with a true mask of the same label (0 if there is none)."""
    best = np.zeros(len(found), np.float32)
    true_label = np.asarray(truth.label, np.int64)
    for label in np.unique(found.label):
        mine, theirs = np.flatnonzero(found.label == label), np.flatnonzero(true_label == label)
        if len(theirs):
            iou = coco_mask.iou(
                [dict(found.rle[i]) for i in mine], [dict(truth.rle[i]) for i in theirs], [0] * len(theirs)
            )
            best[mine] = np.asarray(iou).max(axis=1)
    return best


def evaluate(
    predicted: Sequence[Instances],
    truth: Sequence[Example],
    labels: Sequence[str],
    *,
    iou: Literal["segm", "bbox"] = "segm",
    max_detections: int = 500,
    resamples: int = 400,
    seed: int = 0,
    loose: bool = False,
) -> Evaluation:
    """COCO AP over images, with 95 % bootstrap intervals (images drawn with replacement).

    ``iou`` is that of masks (``segm``) or of boxes (``bbox``: ``Instances.box_xyxy`` in fractions of pixels
    against the boxes around the true masks). Metrics: ``AP``, ``AP50``, ``AP75`` over all labels, and of each
    label ``AP/<label>`` and ``AP50/<label>``.

    COCOeval's definition (10 thresholds, 101 recalls, all areas), but with ``max_detections`` per image and
    label instead of 100, since images of cells hold more. Images are matched once; each resample only
    accumulates the matches of the images drawn. A mean over labels leaves out labels without a true instance
    (in a resample: in the images drawn). With no true instance at all the metrics are empty. ``loose`` adds
    AP25, for learners whose outlines nobody drew.

    Raises ValueError when the two sequences differ in length.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions for {len(truth)} images")
    n_instances = sum(len(example.label) for example in truth)
    if not n_instances:
        return Evaluation(len(truth), 0, {})
    if not any(len(found) for found in predicted):
        present = {labels[k] for example in truth for k in example.label}
        names = [metric for metric, _ in _OVERALL]
        names += [f"{metric}/{name}" for metric, _ in _BY_LABEL for name in labels if name in present]
        names += ["AP25"] * loose
        return Evaluation(len(truth), n_instances, dict.fromkeys(names, (0.0, 0.0, 0.0)))
    evaluator = _match(predicted, truth, labels, iou, max_detections, loose)
    n = len(truth)
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    # (1 + resamples, thresholds, labels), NaN where a draw holds no instance of the label
    precision = np.stack([_accumulate(evaluator, draw) for draw in [np.arange(n), *draws]])
    metrics: dict[str, tuple[float, float, float]] = {}
    if loose:
        metrics["AP25"] = _interval(_mean_over_labels(precision[:, 0]))
        precision = precision[:, 1:]
    for name, rows in _OVERALL:
        metrics[name] = _interval(_mean_over_labels(precision[:, rows].mean(axis=1)))
    for name, rows in _BY_LABEL:
        for k, label in enumerate(labels):
            if not np.isnan(precision[0, 0, k]):
                metrics[f"{name}/{label}"] = _interval(precision[:, rows, k].mean(axis=1))
    return Evaluation(n, n_instances, metrics)


def _match(
    predicted: Sequence[Instances],
    truth: Sequence[Example],
    labels: Sequence[str],
    iou: Literal["segm", "bbox"],
    max_detections: int,
    loose: bool,
) -> COCOeval_faster:
    """The library's evaluator with all images matched; any selection of them can be accumulated."""
    gt: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    images = []
    for i, (instances, example) in enumerate(zip(predicted, truth, strict=True)):
        size = (example.rle or instances.rle or [{"size": [1, 1]}])[0]["size"]
        images.append({"id": i + 1, "height": size[0], "width": size[1]})  # type: ignore[index]
        for label, rle in zip(example.label, example.rle, strict=True):
            area = float(coco_mask.area(dict(rle)))
            box = [float(v) for v in coco_mask.toBbox(dict(rle))]
            gt.append(_annotation(len(gt) + 1, i + 1, label, rle) | {"area": area, "bbox": box, "iscrowd": 0})
        for j in range(len(instances)):
            record = _annotation(0, i + 1, int(instances.label[j]), instances.rle[j])
            if iou == "bbox":  # the library takes a result's kind from its first field
                del record["segmentation"]
                x0, y0, x1, y1 = (float(v) for v in instances.box_xyxy[j])
                record["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            found.append(record | {"score": float(instances.score[j])})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(labels)]
    truth_set = COCO({"images": images, "annotations": gt, "categories": categories})
    evaluator = COCOeval_faster(
        truth_set, truth_set.loadRes(found), iou, print_function=_quiet, separate_eval=True
    )
    evaluator.params.areaRng = _EVERY_AREA
    evaluator.params.areaRngLbl = ["all"]
    evaluator.params.maxDets = [max_detections]
    if loose:
        evaluator.params.iouThrs = np.concatenate([[0.25], evaluator.params.iouThrs])
    evaluator.evaluate()
    return evaluator


def _annotation(identifier: int, image: int, label: int, rle: Rle) -> dict[str, Any]:
    return {"id": identifier, "image_id": image, "category_id": label + 1, "segmentation": dict(rle)}


def _accumulate(evaluator: COCOeval_faster, draw: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(thresholds, labels) AP over the images of ``draw`` (indices, repeats allowed)."""
    chosen = copy.copy(evaluator)
    n = len(evaluator.params.imgIds)
    labels = len(evaluator.params.catIds)
    matched = evaluator._evalImgs_cpp  # one entry per (label, image), label-major
    chosen._evalImgs_cpp = [matched[k * n + int(i)] for k in range(labels) for i in draw]
    chosen.accumulate()
    precision = np.asarray(chosen.eval["precision"], np.float64).reshape(-1, 101, labels, 1, 1)[..., 0, 0]
    return np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))


def _quiet(*_: object) -> None:
    """The library reports timings through this."""


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (values[0], values[0])
    return float(values[0]), float(low), float(high)


def _mean_over_labels(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(draws,) means of (draws, labels) over labels; labels without an instance in a draw are left out."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    mean: npt.NDArray[np.float64] = np.where(
        known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan
    )
    return mean
