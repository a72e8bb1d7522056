"""Parts of the segmentation learner: what pixels teach, the loss, calibration, reading of maps, metrics."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ml_backend.examples import Example
from ml_backend.instances import Instances
from ml_backend.learners.segmentation.calibration import best_threshold, calibrate, fit_line, look
from ml_backend.learners.segmentation.evaluation import evaluate_masks
from ml_backend.learners.segmentation.network import NetworkConfig, SegmentationNetwork, build_network
from ml_backend.learners.segmentation.optimisation import exact_statistics, focal_loss
from ml_backend.learners.segmentation.predictor import SegmentationPredictor
from ml_backend.learners.segmentation.reading import find, map_doubts, predicted_iou
from ml_backend.learners.segmentation.training_crops import (
    Batch,
    Crops,
    CropSettings,
    fit_scale,
    label_shares,
    stack,
    targets_of,
)
from ml_backend.masks.rle import decode_rle, encode_mask
from ml_backend.masks.shapes import box_rle

HW = (40, 60)
NOWHERE = Path("nowhere.png")


def rows_of(*rows: tuple[int, tuple[float, float, float, float]]) -> Instances:
    n = len(rows)
    return Instances(
        np.array([label for label, _ in rows], np.int64),
        np.array([box for _, box in rows], np.float32).reshape(-1, 4),
        [box_rle(box, HW) for _, box in rows],
        np.ones(n, np.float32),
        np.ones(n, np.float32),
        np.zeros((n, 0), np.float32),
    )


def test_ignored_areas_and_weights_count_per_pixel() -> None:
    example = Example(
        1, NOWHERE, (0, 0, 1),
        (box_rle((0, 0, 10, 10), HW), box_rle((5, 0, 20, 10), HW), box_rle((30, 20, 40, 30), HW)),
        ignore=(box_rle((15, 0, 60, 15), HW),), weight=(0.5, 1.0, 0.25),
    )  # fmt: skip
    union, valid, counts = targets_of(example, HW)
    assert union[0].sum() == 200
    assert valid.sum() == 40 * 60 - 45 * 15
    assert counts[0][5, 2] == 0.5
    assert counts[0][5, 7] == 1.0  # the larger weight where masks overlap
    assert counts[0][5, 18] == 1.0  # a drawn mask counts inside an ignored area
    assert counts[0][5, 30] == 0.0
    assert counts[1][25, 35] == 0.25
    assert counts[1][5, 18] == 0.0  # nobody said whether the other label is there
    assert counts[0][25, 35] == 1.0


def test_crops_carry_targets_and_weights(tmp_path: Path) -> None:
    pixels = np.full((*HW, 3), 40, np.uint8)
    pixels[10:30, 20:50] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    example = Example(
        1,
        tmp_path / "a.png",
        (1,),
        (encode_mask(pixels[..., 0] > 100),),
        ignore=(box_rle((0, 0, 60, 5), HW),),
    )
    settings = CropSettings(64, 1.0, 200, "image", "any", 1.3)
    crops = Crops([example], 2, settings, 0, 8)
    batch = stack([crops[i] for i in range(4)])
    assert batch.pixels.shape == (4, 3, 64, 64)
    assert batch.target.shape == batch.weight.shape == (4, 2, 64, 64)
    assert not batch.target[:, 0].any()
    assert batch.target[:, 1].mean() > 0.05
    # the object is the brighter part: masks moved with their pixels
    bright = batch.pixels[:, 0][batch.target[:, 1] > 0].mean()
    dark = batch.pixels[:, 0][(batch.target[:, 1] == 0) & (batch.weight[:, 1] == 1)].mean()
    assert bright > dark + 1
    assert (batch.weight == 0).any()  # ignored, or outside the picture
    assert torch.equal(batch.pixels[3], Crops([example], 2, settings, 0, 8)[3][0])


def test_the_loss_takes_logits_and_leaves_out_what_does_not_count() -> None:
    logits = torch.tensor([[[[2.0, -3.0]]]])
    target = torch.tensor([[[[1.0, 1.0]]]])
    first = Batch(torch.zeros(1, 3, 1, 2), target, torch.tensor([[[[1.0, 0.0]]]]))
    p = 1 / (1 + np.exp(-2.0))
    assert focal_loss(logits, first, alpha=0.25, gamma=2).item() == pytest.approx(
        -0.25 * (1 - p) ** 2 * np.log(p), rel=1e-5
    )
    nothing = Batch(first.pixels, target, torch.zeros(1, 1, 1, 2))
    assert focal_loss(logits, nothing, alpha=0.25, gamma=2).item() == 0


def test_batch_statistics_are_those_of_the_final_weights() -> None:
    torch.manual_seed(0)
    model = SegmentationNetwork(1, "skip")
    pixels = torch.randn(4, 3, 32, 32) * 3 + 5
    exact_statistics(model, lambda step: pixels, batches=2, device=torch.device("cpu"))
    assert not model.training
    first = model.backbone["0"]
    expected = first[0](pixels).mean(dim=(0, 2, 3))
    assert torch.allclose(first[1].running_mean, expected, atol=1e-4)
    assert first[1].momentum == 0.01


def test_a_line_makes_probabilities_true() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 2, 20_000)
    target = (rng.random(20_000) < 1 / (1 + np.exp(-(2.5 * z + 1)))).astype(float)
    slope, shift = fit_line(z, target)
    assert slope == pytest.approx(2.5, abs=0.15)
    assert shift == pytest.approx(1, abs=0.15)
    assert fit_line(np.zeros(0), np.zeros(0)) == (1.0, 0.0)
    slope, shift = fit_line(np.array([3.0]), np.array([0.0]))
    assert 0 < slope < 1
    assert shift < 0
    assert fit_line(np.linspace(-500, 500, 999), np.linspace(1, 0, 999))[0] == 0.05  # order is kept


def test_the_threshold_of_best_iou() -> None:
    p = np.array([0.1, 0.22, 0.37, 0.6, 0.9])
    assert best_threshold(p, np.array([0, 0, 1.0, 1, 1])) == pytest.approx(0.35)
    assert best_threshold(p, np.zeros(5)) == 0.5


def test_rows_of_maps() -> None:
    maps = np.zeros((3, *HW), np.float32)
    maps[0, 5:15, 5:25] = 0.8
    maps[0, 5:15, 25:30] = 0.2
    maps[0, 30, 50] = 0.9
    maps[2, 20:30, 0:10] = 0.6
    rows = find(maps, (0.5, 0.5, 0.7), unit="mask", min_area=16, grid_hw=(4, 6))
    assert [row.label for row in rows] == [0]
    (row,) = rows
    assert decode_rle(row.rle).sum() == 201
    assert row.score == pytest.approx(160.9 / 201, rel=1e-5)
    assert row.overlap == pytest.approx(160.9 / (201 + 10), rel=1e-5)
    assert row.grid.shape == (4, 6)
    assert row.grid[0, 1] > 0
    parts = find(maps, (0.5, 0.5, 0.5), unit="component", min_area=16, grid_hw=(4, 6))
    assert [(part.label, int(decode_rle(part.rle).sum())) for part in parts] == [(0, 200), (2, 100)]
    assert parts[0].overlap == pytest.approx(160 / 210, rel=1e-5)
    assert parts[1].grid.argmax() // 6 == 2


def test_doubts_and_predicted_iou() -> None:
    sure, unsure, empty = np.zeros((1, *HW)), np.zeros((1, *HW)), np.full((1, *HW), 1e-6)
    sure[0, 10:30, 10:30], unsure[0, 10:30, 10:30] = 0.999, 0.6
    found = [map_doubts(maps.astype(np.float32), (0.5,)) for maps in (empty, sure, unsure)]
    for name in ("entropy", "margin", "boundary"):
        low, middle, high = (doubts[name] for doubts in found)
        assert 0 <= low <= middle + 1e-3 <= high <= 1
    assert map_doubts(np.zeros((0, *HW), np.float32), ()) == {}
    q = np.array([0.0, 0.3, 0.9, 1.0], np.float32)
    assert predicted_iou(q, (1.0, 0.0)) == pytest.approx(q, abs=1e-3)
    assert (predicted_iou(q, (1.0, -1.0))[1:] < q[1:]).all()


def test_scale_and_shares_follow_the_masks() -> None:
    assert fit_scale([400] * 5, [(300, 400)] * 3, target_px=30, max_side=1000) == 1.5
    assert fit_scale([100] * 5, [(300, 400)] * 3, target_px=100, max_side=1000) == 2.0
    assert fit_scale([90_000], [(2000, 1000)], target_px=30, max_side=500) == 0.25
    assert fit_scale([], [], target_px=30, max_side=512) == 1.0
    example = Example(1, NOWHERE, (1, 1), (box_rle((0, 0, 30, 20), HW), box_rle((0, 0, 60, 20), HW)))
    assert label_shares([example], 2).tolist() == [0.0, 0.5]


def test_metrics_count_pixels() -> None:
    truth = [
        Example(1, NOWHERE, (0, 1), (box_rle((0, 0, 20, 20), HW), box_rle((30, 20, 40, 30), HW))),
        Example(2, NOWHERE, (), ()),
        Example(3, NOWHERE, (0,), (box_rle((0, 0, 10, 10), HW),), ignore=(box_rle((20, 0, 60, 40), HW),)),
    ]
    found = [
        rows_of((0, (0, 0, 20, 10)), (0, (10, 0, 20, 10)), (1, (30, 20, 40, 30))),
        rows_of((0, (0, 0, 10, 10))),
        rows_of((0, (0, 0, 10, 10)), (0, (30, 0, 40, 10))),
    ]
    metrics = evaluate_masks(found, truth, ("a", "b", "c"), resamples=50).metrics
    hit, wrong, missed = 200 + 100, 100, 200
    assert metrics["IoU/a"][0] == pytest.approx(hit / (hit + wrong + missed))
    assert metrics["Dice/a"][0] == pytest.approx(2 * hit / (2 * hit + wrong + missed))
    assert metrics["precision/a"][0] == pytest.approx(hit / (hit + wrong))
    assert metrics["recall/a"][0] == pytest.approx(hit / (hit + missed))
    assert metrics["IoU/b"] == (1.0, 1.0, 1.0)
    assert "IoU/c" not in metrics
    assert metrics["IoU"][0] == pytest.approx((metrics["IoU/a"][0] + 1) / 2)
    assert 0.95 < metrics["specificity/a"][0] < 1
    assert evaluate_masks([rows_of()], [truth[1]], ("a",)).metrics == {}
    assert evaluate_masks([], [], ("a",)).metrics == {}
    with pytest.raises(ValueError, match="1 predictions"):
        evaluate_masks([rows_of()], [], ("a",))


def test_intervals_of_many_pictures_and_labels_take_little_memory() -> None:
    truth = [Example(i, NOWHERE, (), ()) for i in range(200)]
    truth.append(Example(200, NOWHERE, (0,), (box_rle((0, 0, 10, 10), HW),)))
    found = [rows_of() for _ in truth]
    tracemalloc.start()
    try:
        evaluate_masks(found, truth, [f"label {k}" for k in range(100)], resamples=400)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def held_out(folder: Path, count: int, hw: tuple[int, int]) -> list[Example]:
    """Pictures with one box of each of two labels."""
    folder.mkdir()
    boxes = [(0.1, 0.1, 0.4, 0.6), (0.5, 0.3, 0.9, 0.9)]
    size = np.array([hw[1], hw[0]] * 2)
    rles = tuple(box_rle(tuple(float(v) for v in np.round(box * size)), hw) for box in np.array(boxes))
    examples = []
    for i in range(count):
        Image.new("RGB", hw[::-1], (40 * i % 256, 90, 160)).save(folder / f"{i}.png")
        examples.append(Example(i, folder / f"{i}.png", (0, 1), rles))
    return examples


def test_calibration_keeps_nothing_as_large_as_the_pictures(tmp_path: Path) -> None:
    config = NetworkConfig(
        ("a", "b"), "skip", "image", 1.0, 96, "mask", 16, (0.5, 0.5), ((1.0, 0.0), (1.0, 0.0))
    )
    torch.manual_seed(0)
    predictor = SegmentationPredictor(build_network(config), config, device=torch.device("cpu"))
    small, large = held_out(tmp_path / "small", 1, (96, 72)), held_out(tmp_path / "large", 4, (1600, 1200))
    assert look(predictor, small[0]).nbytes == look(predictor, large[0]).nbytes > 0

    def peak(examples: list[Example]) -> int:
        tracemalloc.start()
        try:
            calibrate(predictor, config, examples, fixed_threshold=None, seed=0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(small)  # what is imported and built once
    assert peak(large) - peak(large[:1]) < 3 * 1600 * 1200, "three more pictures, less than a byte per pixel"
