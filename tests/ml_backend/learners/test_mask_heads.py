"""The heads of Mask R-CNN: wider mask windows, more passes of the box head, predicted IoU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network
from ml_backend.learners.maskrcnn.export import tight_boxes
from ml_backend.learners.maskrcnn.geometry import Geometry
from ml_backend.learners.maskrcnn.heads import widened
from ml_backend.learners.maskrcnn.quality import MaskQuality, whole_mask_iou
from ml_backend.masks.rle import encode_mask
from ml_backend.masks.shapes import boxes_of

PLAIN = NetworkConfig(("a", "b"), "small", 32, Geometry(1.0, ((16.0,), (32.0,)), (1.0,), 20), "image")
ALL = dataclasses.replace(PLAIN, mask_margin=0.1, box_passes=2, quality_head=True)


def square(x0: int, y0: int, x1: int, y1: int, hw: tuple[int, int] = (64, 64)) -> Tensor:
    mask = torch.zeros(hw, dtype=torch.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def test_iou_counts_what_lies_outside_the_window() -> None:
    truth = torch.stack([square(8, 8, 48, 48), square(0, 0, 4, 4)])
    # windows lie where torchvision's masks do: pixel i at coordinate i
    full = torch.full((1, 40, 40), 9.0)
    whole = whole_mask_iou(full, torch.tensor([[7.5, 7.5, 47.5, 47.5]]), truth, torch.tensor([0]))
    assert whole.item() == pytest.approx(1, abs=0.03)
    # a window over the left half: all of it is right, and half of the object is missing
    half = whole_mask_iou(full, torch.tensor([[7.5, 7.5, 27.5, 47.5]]), truth, torch.tensor([0]))
    assert half.item() == pytest.approx(0.5, abs=0.03)
    # a window twice as large, filled: all of the object is found, and three times as much beside it
    large = whole_mask_iou(full, torch.tensor([[-12.5, -12.5, 67.5, 67.5]]), truth, torch.tensor([0]))
    assert large.item() == pytest.approx(0.25, abs=0.03)
    none = whole_mask_iou(full, torch.tensor([[7.5, 7.5, 47.5, 47.5]]), truth, torch.tensor([-1]))
    assert none.item() == 0
    assert whole_mask_iou(full, torch.ones(1, 4), torch.zeros(0, 64, 64), torch.tensor([-1])).item() == 0


def test_the_head_changes_nothing_but_itself() -> None:
    head = MaskQuality(8, 14, 16)
    features = torch.rand(3, 8, 14, 14, requires_grad=True)
    logits = torch.randn(3, 28, 28, requires_grad=True)
    box = torch.randn(3, 16, requires_grad=True)
    found = head(features, logits, box)
    assert found.shape == (3,)
    assert bool(((found > 0) & (found < 1)).all())
    found.sum().backward()
    assert features.grad is None
    assert logits.grad is None
    assert box.grad is None
    assert head.first.weight.grad is not None


def test_windows_grow_on_all_sides() -> None:
    box = torch.tensor([[10.0, 20, 30, 60]])
    assert widened(box, 0.0) is box
    assert widened(box, 0.1).tolist() == [[8, 16, 32, 64]]


def test_descriptions_from_before_give_the_old_network() -> None:
    old = PLAIN.to_json()
    for name in ("mask_margin", "box_passes", "quality_head"):
        del old[name]
    assert NetworkConfig.from_json(old) == PLAIN
    model = build_network(PLAIN).eval()
    assert not [name for name in model.state_dict() if "quality" in name]
    found = model([torch.rand(3, 96, 96)])[0]
    assert "quality" not in found
    assert [name for name in build_network(ALL).state_dict() if "quality" in name]


def test_a_second_pass_moves_the_boxes_and_drops_what_met() -> None:
    torch.manual_seed(0)
    once = build_network(dataclasses.replace(PLAIN, score_threshold=0.0)).eval()
    twice = build_network(dataclasses.replace(PLAIN, score_threshold=0.0, box_passes=2)).eval()
    twice.load_state_dict(once.state_dict())
    images, _ = once.transform([torch.randn(3, 96, 96)])
    with torch.inference_mode():
        features = once.backbone(images.tensors)
        proposals, _ = once.rpn(images, features)
        first = once.roi_heads.detect(features, proposals, [(96, 96)])[0]
        second = twice.roi_heads.detect(features, proposals, [(96, 96)])[0]
        moved = once.roi_heads.refined(features, [first["boxes"]], [first["labels"]], [(96, 96)])[0]
    assert 0 < len(second["boxes"]) <= len(first["boxes"])
    assert not torch.allclose(moved, first["boxes"])
    for box, score in zip(second["boxes"], second["scores"], strict=True):
        same = (moved == box).all(dim=1) & (first["scores"] == score)
        assert bool(same.any())


def target(*boxes: tuple[int, int, int, int]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": torch.stack([square(*box) for box in boxes]) if boxes else torch.zeros(0, 64, 64),
    }


def test_losses_are_finite_also_for_pictures_without_objects() -> None:
    torch.manual_seed(0)
    model = build_network(ALL).train()
    pictures = [torch.randn(3, 64, 64), torch.randn(3, 64, 64)]
    losses = model(pictures, [target((8, 8, 30, 30), (34, 34, 60, 60)), target()])
    assert {"loss_classifier", "loss_box_reg", "loss_mask", "loss_quality"} <= set(losses)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    sum(losses.values()).backward()
    heads = model.roi_heads
    assert heads.quality_head.last.weight.grad.abs().sum() > 0
    empty = model(pictures, [target(), target()])
    assert all(bool(torch.isfinite(loss)) for loss in empty.values())


def test_boxes_around_masks() -> None:
    masks = torch.stack([square(3, 5, 20, 9), square(0, 0, 64, 64), square(0, 0, 0, 0)]).bool()
    expected = [[3, 5, 20, 9], [0, 0, 64, 64], [0, 0, 0, 0]]
    assert tight_boxes(masks).tolist() == expected
    assert boxes_of([encode_mask(mask) for mask in masks.numpy()]).tolist() == expected
    assert boxes_of([]).shape == (0, 4)
    assert tight_boxes(masks[:0]).shape == (0, 4)
    assert np.dtype(np.float32) == boxes_of([]).dtype
