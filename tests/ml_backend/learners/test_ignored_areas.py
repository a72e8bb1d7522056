"""Weights of instances and areas to ignore, in crops and in the losses of Mask R-CNN."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ml_backend.learners.maskrcnn.architecture import NetworkConfig, build_network
from ml_backend.learners.maskrcnn.geometry import Geometry
from ml_backend.learners.maskrcnn.ignore import inside, training_samples
from ml_backend.learners.maskrcnn.training_crops import Crops, CropSettings

from .shapes import draw_examples

SETTINGS = CropSettings(96, 1.0, "image", "any")


def network() -> Any:
    torch.manual_seed(0)
    geometry = Geometry(1.0, ((16.0,), (32.0,)), (1.0,), 20)
    return build_network(NetworkConfig(("disc",), "small", 16, geometry, "image")).train()


def test_a_box_is_inside_when_most_of_it_is() -> None:
    areas = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 19, 10], [0, 0, 21, 10], [52, 52, 58, 58], [20, 20, 30, 30]])
    assert inside(boxes, areas).tolist() == [True, True, False, True, False]
    assert inside(boxes, areas[:0]).tolist() == inside(boxes, None).tolist() == [False] * 5
    assert inside(boxes[:0], areas).shape == (0,)


def test_an_instance_of_weight_w_counts_in_a_share_w_of_the_crops(tmp_path: Path) -> None:
    """In the other crops its place is ignored; never is it background."""
    example = draw_examples(tmp_path, 1)[0]
    weights = (0.25,) * len(example.rle)
    certain = Crops([example], SETTINGS, 0, 400)
    drawn = Crops([dataclasses.replace(example, weight=weights)], SETTINGS, 0, 400)
    counted = total = 0
    for index in range(150):
        image, target = drawn[index]
        whole = certain[index][1]
        assert torch.equal(image, certain[index][0]), "weights change no pixels"
        together = torch.cat([target["boxes"], target["ignore"]])
        assert sorted(together.tolist()) == sorted(whole["boxes"].tolist())
        assert len(target["boxes"]) == len(target["masks"]) == len(target["labels"])
        counted, total = counted + len(target["boxes"]), total + len(together)
    assert total > 200
    assert counted / total == pytest.approx(0.25, abs=0.08)


def test_areas_to_ignore_move_with_the_pixels(tmp_path: Path) -> None:
    """An area to ignore lies where the object of the same mask would lie."""
    first, *others = range(len((example := draw_examples(tmp_path, 1)[0]).rle))
    half = dataclasses.replace(
        example,
        label=tuple(example.label[i] for i in others),
        rle=tuple(example.rle[i] for i in others),
        ignore=(example.rle[first],),
    )
    seen = 0
    for index in range(20):
        # where a crop lies depends on the drawn objects: no jitter, the whole picture
        settings = CropSettings(256, 1.0, "image", "none", jitter=0.0)
        target, whole = (Crops([e], settings, 0, 20)[index][1] for e in (half, example))
        assert len(target["ignore"]) <= 1
        together = torch.cat([target["ignore"], target["boxes"]])
        seen += len(target["ignore"])
        sides = (together[:, 2:] - together[:, :2]).tolist()
        assert sorted(sides) == sorted((whole["boxes"][:, 2:] - whole["boxes"][:, :2]).tolist())
    assert seen > 15


def targets(ignore: Tensor) -> list[dict[str, Tensor]]:
    mask = np.zeros((96, 96), np.uint8)
    mask[10:40, 10:40] = 1
    return [
        {
            "boxes": torch.tensor([[10.0, 10, 40, 40]]),
            "labels": torch.tensor([1]),
            "masks": torch.from_numpy(mask)[None],
            "ignore": ignore,
        }
    ]


def test_nothing_in_an_ignored_area_is_sampled_as_background() -> None:
    heads = network().roi_heads
    proposals = [torch.rand(300, 4, generator=torch.Generator().manual_seed(1)) * 60]
    proposals[0][:, 2:] = proposals[0][:, :2] + 20
    area = torch.tensor([[45.0, 0, 96, 96]])
    boxes, matched, labels, offsets = training_samples(heads, proposals, targets(area))
    is_background = labels[0] == 0
    assert is_background.any()
    assert (labels[0] == 1).any()
    assert not inside(boxes[0][is_background], area).any()
    assert len(boxes[0]) == len(matched[0]) == len(labels[0]) == len(offsets[0])
    torch.manual_seed(3)
    plain = training_samples(heads, proposals, targets(area[:0]))
    assert inside(plain[0][0][plain[2][0] == 0], area).any()


def test_both_samplers_agree_without_ignored_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our sampling is torchvision's but for the areas: an area that touches nothing changes nothing."""
    heads = network().roi_heads
    proposals = [torch.rand(100, 4, generator=torch.Generator().manual_seed(1)) * 60]
    proposals[0][:, 2:] = proposals[0][:, :2] + 20
    found = []
    for area in (torch.zeros(0, 4), torch.tensor([[900.0, 900, 901, 901]])):
        torch.manual_seed(5)
        found.append(training_samples(heads, [proposals[0].clone()], targets(area)))
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_anchors_in_an_ignored_area_are_no_background() -> None:
    rpn = network().rpn
    rpn = getattr(rpn, "inner", rpn)
    anchors = [torch.tensor([[10.0, 10, 40, 40], [60, 60, 90, 90], [0, 60, 30, 90]])]
    labels, _ = rpn.assign_targets_to_anchors(anchors, targets(torch.tensor([[55.0, 55, 96, 96]])))
    assert labels[0].tolist() == [1, -1, 0]


def test_a_picture_that_is_ignored_as_a_whole_teaches_the_heads_nothing() -> None:
    model = network()
    image = torch.randn(3, 96, 96)
    empty = targets(torch.tensor([[0.0, 0, 96, 96]]))
    empty[0] |= {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 96, 96, dtype=torch.uint8),
    }
    losses = model([image], empty)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert [name for name, loss in losses.items() if float(loss.detach())] == ["loss_objectness"], (
        "anchors outside"
    )
