"""Pictures kept in memory, batches by step, and changes of pictures with their boxes and masks."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ml_backend.learners.pixels import resized
from ml_backend.learners.training.augment import Augment
from ml_backend.learners.training.batches import Batches, to_device
from ml_backend.learners.training.images import Pictures


@dataclass(frozen=True)
class Within:
    """Resizes so that the longest side is at most ``side``."""

    side: int

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        factor = self.side / max(pixels.shape[:2])
        return resized(pixels, (round(pixels.shape[0] * factor), round(pixels.shape[1] * factor)))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return paths


def test_pictures_are_decoded_once_within_their_bytes(files: list[Path]) -> None:
    pictures = Pictures(files, Within(30), cache_bytes=2 * 20 * 30 * 3)
    first = pictures[0]
    assert first.pixels.shape == (20, 30, 3)
    assert first.hw == (40, 60)
    assert pictures[0] is first
    assert [pictures[i].pixels.shape for i in range(4)] == [(20, 30, 3)] * 4
    assert pictures[1] is pictures[1]
    assert pictures[0] is first, "a full cache drops nothing"
    assert pictures[3] is not pictures[3]
    again = pickle.loads(pickle.dumps(Pictures(files, Within(30), cache_bytes=100)))
    np.testing.assert_array_equal(again[0].pixels, first.pixels)
    assert Pictures(files, cache_bytes=0)[2].pixels.shape == (40, 60, 3)


class Numbers:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_by_step_also_after_a_jump(workers: int) -> None:
    batches = Batches(Numbers(), 4, workers=workers)
    assert [batches(0), batches(1)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [batches(7), batches(8)] == [[28, 29, 30, 31], [32, 33, 34, 35]]
    assert batches(2) == [8, 9, 10, 11]


def test_tensors_are_moved_wherever_they_are() -> None:
    moved = to_device({"a": [torch.zeros(1), (torch.ones(2), "text")], "b": 3}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert (moved["a"][1][1], moved["b"]) == ("text", 3)


@pytest.mark.parametrize("preset", ["none", "photo", "any"])
@pytest.mark.parametrize("crop", [1.0, 0.3])
def test_boxes_and_masks_move_with_the_pixels(preset: str, crop: float) -> None:
    """Two bright boxes on black: wherever they go, boxes and masks lie on them."""
    image = torch.zeros(3, 60, 100, dtype=torch.uint8)
    masks = torch.zeros(2, 60, 100, dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 20.0, 40.0, 50.0], [70.0, 5.0, 90.0, 25.0]])
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        image[:, y0:y1, x0:x1] = 220
        mask[y0:y1, x0:x1] = 1
    target = {"boxes": boxes, "masks": masks, "labels": torch.tensor([3, 5]), "picture": torch.zeros(2)}
    change = Augment(preset, 48, 80, crop=crop)
    shown = 0
    for seed in range(30):
        moved, found = change(image, {**target, "semantic": masks.amax(0)}, seed)
        assert moved.shape == (3, 48, 80)
        assert moved.dtype == torch.uint8
        assert len(found["boxes"]) == len(found["masks"]) == len(found["labels"])
        assert len(found["picture"]) == 2
        shown += len(found["boxes"])
        union = found["semantic"].bool()
        if union.any():
            bright = moved.float().mean(0)
            assert bright[union].mean() > bright[~union].mean() + 60
        for box, mask in zip(found["boxes"], found["masks"].bool(), strict=True):
            y, x = torch.nonzero(mask, as_tuple=True)
            drawn = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
            assert (box - drawn).abs().max() <= 1.5
        again, same = change(image, target, seed)
        assert torch.equal(again, moved)
        assert torch.equal(same["boxes"], found["boxes"])
    assert shown > 30
    draws = {change(image, target, seed)[0].float().mean().item() for seed in range(5)}
    assert len(draws) == (1 if preset == "none" and crop == 1 else 5)


def test_lost_boxes_take_their_labels_along() -> None:
    target = {"boxes": torch.tensor([[0.0, 0, 50, 50], [3, 3, 3.5, 3.5]]), "labels": torch.tensor([1, 2])}
    _, found = Augment("none", 50, 50)(torch.zeros(3, 50, 50, dtype=torch.uint8), target, 0)
    assert found["labels"].tolist() == [1]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert Augment("any", 20, 20)(torch.zeros(3, 50, 50, dtype=torch.uint8), empty, 1)[1]["boxes"].shape == (
        0,
        4,
    )
    with pytest.raises(ValueError, match="nonsense"):
        Augment("nonsense", 8, 8)(torch.zeros(3, 8, 8, dtype=torch.uint8), {}, 0)
