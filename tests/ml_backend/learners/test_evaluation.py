"""AP agrees with pycocotools; intervals and matches behave."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ml_backend.examples import Example
from ml_backend.instances import Instances, Rle
from ml_backend.learners.evaluation import evaluate, match_iou

LABELS = ("disc", "ring", "never")
HW = (60, 80)


def disc(x: float, y: float, r: float) -> Rle:
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    found = coco_mask.encode(
        np.asfortranarray(((columns - x) ** 2 + (rows - y) ** 2 <= r * r).astype(np.uint8))
    )
    return {"size": list(HW), "counts": found["counts"].decode()}


def xyxy(rle: Rle) -> tuple[float, float, float, float]:
    x, y, w, h = coco_mask.toBbox(dict(rle))
    return x, y, x + w, y + h


def instances(rows: list[tuple[int, Rle, float]]) -> Instances:
    n = len(rows)
    return Instances(
        np.array([row[0] for row in rows], np.int64),
        np.array([xyxy(row[1]) for row in rows], np.float32).reshape(n, 4),
        [row[1] for row in rows],
        np.array([row[2] for row in rows], np.float32),
        np.ones(n, np.float32),
        np.zeros((n, 0), np.float32),
    )


def scene(seed: int, images: int = 12) -> tuple[list[Instances], list[Example]]:
    """Discs and their noisy copies, some missed, some made up."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for i in range(images):
        true: list[tuple[int, Rle]] = []
        rows: list[tuple[int, Rle, float]] = []
        for _ in range(rng.integers(0, 9)):
            x, y, r = rng.uniform(5, 75), rng.uniform(5, 55), rng.uniform(4, 10)
            label = int(rng.integers(2))
            true.append((label, disc(x, y, r)))
            if rng.random() < 0.8:
                dx, dy, dr = rng.normal(0, 1.2, 3)
                rows.append((label, disc(x + dx, y + dy, max(2, r + dr)), float(rng.beta(5, 2))))
        for _ in range(rng.integers(0, 3)):
            rows.append((int(rng.integers(2)), disc(*rng.uniform(5, 55, 2), 6), float(rng.beta(2, 3))))
        truth.append(Example(i, Path("x"), tuple(t[0] for t in true), tuple(t[1] for t in true)))
        found.append(instances(rows))
    return found, truth


def oracle(
    found: list[Instances], truth: list[Example], max_detections: int, iou: str = "segm"
) -> dict[str, float]:
    annotations, results = [], []
    for i, (mine, example) in enumerate(zip(found, truth, strict=True)):
        for label, rle in zip(example.label, example.rle, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": label + 1,
                    "segmentation": rle,
                    "iscrowd": 0,
                    "area": float(coco_mask.area(dict(rle))),
                    "bbox": list(coco_mask.toBbox(dict(rle))),
                }
            )
        for j in range(len(mine)):
            results.append(
                {
                    "image_id": i + 1,
                    "category_id": int(mine.label[j]) + 1,
                    "score": float(mine.score[j]),
                }
                | (
                    {"segmentation": mine.rle[j]}
                    if iou == "segm"
                    else {"bbox": list(coco_mask.toBbox(dict(mine.rle[j])))}
                )
            )
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = {
            "images": [{"id": i + 1, "height": HW[0], "width": HW[1]} for i in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(LABELS)],
        }
        gt.createIndex()
        evaluator = COCOeval(gt, gt.loadRes(results), iou)
        evaluator.params.maxDets = [max_detections]
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, 0]

    def mean(part: np.ndarray) -> float:
        return float(part[part > -1].mean())

    return {
        "AP": mean(precision),
        "AP50": mean(precision[0]),
        "AP75": mean(precision[5]),
        "AP/disc": mean(precision[:, :, 0]),
        "AP/ring": mean(precision[:, :, 1]),
        "AP50/disc": mean(precision[0, :, 0]),
        "AP50/ring": mean(precision[0, :, 1]),
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("max_detections", [2, 500])
@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_agrees_with_pycocotools(iou: Literal["segm", "bbox"], seed: int, max_detections: int) -> None:
    found, truth = scene(seed)
    mine = evaluate(found, truth, LABELS, iou=iou, max_detections=max_detections, resamples=3)
    expected = oracle(found, truth, max_detections, iou)
    assert set(mine.metrics) == set(expected)
    for name, value in expected.items():
        assert mine.metrics[name][0] == pytest.approx(value, abs=1e-9), name


def test_resampled_images_give_what_evaluating_the_copies_gives() -> None:
    """The bootstrap's short cut: a draw's AP equals a full evaluation of the drawn images."""
    from ml_backend.learners.evaluation import _accumulate, _match

    found, truth = scene(4, images=6)
    draw = np.array([0, 0, 3, 5, 2, 3])
    short = _accumulate(_match(found, truth, LABELS, "segm", 500, False), draw)
    full = oracle([found[i] for i in draw], [truth[i] for i in draw], 500)
    assert np.nanmean(short[:, 0]) == pytest.approx(full["AP/disc"], abs=1e-9)
    assert np.nanmean(short[:, 1]) == pytest.approx(full["AP/ring"], abs=1e-9)


def test_intervals_hold_the_value_and_shrink_with_images() -> None:
    narrow = evaluate(*scene(5, images=80), LABELS, resamples=200)
    wide = evaluate(*scene(5, images=8), LABELS, resamples=200)
    for value, low, high in (*narrow.metrics.values(), *wide.metrics.values()):
        assert 0 <= low <= value <= high <= 1
    assert narrow.metrics["AP"][2] - narrow.metrics["AP"][1] < wide.metrics["AP"][2] - wide.metrics["AP"][1]
    assert narrow.n_images == 80
    assert evaluate(*scene(5, images=8), LABELS, resamples=200) == wide


def test_perfect_absent_and_empty() -> None:
    _, truth = scene(6)
    perfect = [instances([(k, r, 0.9) for k, r in zip(e.label, e.rle, strict=True)]) for e in truth]
    assert evaluate(perfect, truth, LABELS, resamples=20).metrics["AP"] == pytest.approx((1, 1, 1))
    nothing = evaluate([Instances.empty()] * len(truth), truth, LABELS)
    assert nothing.metrics["AP50"] == (0, 0, 0)
    assert "AP/never" not in nothing.metrics
    no_truth = evaluate([Instances.empty()], [Example(0, Path("x"), (), ())], LABELS)
    assert no_truth.metrics == {}
    with pytest.raises(ValueError, match="1 predictions for 0 images"):
        evaluate([Instances.empty()], [], LABELS)


def test_more_than_a_hundred_instances_count() -> None:
    boxes = [disc(4 + 6 * (i % 12), 3 + 5 * (i // 12), 2) for i in range(132)]
    truth = [Example(0, Path("x"), (0,) * 132, tuple(boxes))]
    found = [instances([(0, rle, 0.5) for rle in boxes])]
    assert evaluate(found, truth, LABELS, resamples=1).metrics["AP"][0] == pytest.approx(1)


def test_match_iou_is_per_label() -> None:
    truth = Example(0, Path("x"), (0, 1), (disc(20, 20, 8), disc(50, 30, 8)))
    found = instances([(0, disc(20, 20, 8), 0.9), (0, disc(50, 30, 8), 0.9), (1, disc(52, 30, 8), 0.9)])
    iou = match_iou(found, truth)
    assert iou[0] == pytest.approx(1)
    assert iou[1] == 0
    assert 0.5 < iou[2] < 1
    assert match_iou(Instances.empty(), truth).shape == (0,)
    assert match_iou(found, Example(0, Path("x"), (), ())).tolist() == [0, 0, 0]
