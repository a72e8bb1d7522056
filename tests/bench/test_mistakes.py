"""The benchmark of likely mistakes: errors are planted as it says, and each one counts once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from bench.mistakes import _CHANGES, _hits
from bench.planted import Planted, plant, plant_classes
from ml_backend.examples import Example
from ml_backend.masks.rle import rle_iou
from ml_backend.masks.shapes import box_rle

HW = (100, 100)


def examples(n: int) -> list[Example]:
    boxes = [box_rle((x, y, x + 14, y + 14), HW) for x in range(5, 80, 20) for y in range(5, 80, 20)]
    return [Example(i, Path("none"), (0, 1) * 8, tuple(boxes), tags=(i % 2,)) for i in range(n)]


def test_errors_are_planted_in_about_the_share_that_was_asked_for() -> None:
    true = examples(60)
    made, planted = plant(true, ("a", "b"), share=0.05, seed=0)
    count = Counter(error.kind for error in planted)
    assert set(count) == {"overlooked", "placed", "swapped"}
    assert all(25 <= n <= 75 for n in count.values())  # of 960 objects
    lost = sum(len(a.rle) - len(b.rle) for a, b in zip(true, made, strict=True))
    assert lost == count["overlooked"]
    moved = 0
    for before, after in zip(true, made, strict=True):
        best = rle_iou(list(after.rle), list(before.rle)).max(axis=1)
        moved += int((best < 0.99).sum())
        assert (best[best < 0.99] <= 0.6).all()
    assert moved == count["placed"]
    assert plant(true, ("a", "b"), share=0.05, seed=0)[1] == planted


def test_classes_are_planted_exactly() -> None:
    true = examples(50)
    made, wrong = plant_classes(true, 2, share=0.1, seed=0)
    assert len(wrong) == 5
    assert {b.task_id for a, b in zip(true, made, strict=True) if a.tags != b.tags} == wrong


def test_an_error_is_hit_once_by_where_it_is_or_was_drawn() -> None:
    planted = [Planted(1, "placed", (0, 0, 10, 10), (20, 0, 30, 10))]
    there, drawn, other = (0.9, 1, (0, 0, 9, 9)), (0.8, 1, (20, 0, 30, 10)), (0.7, 2, (0, 0, 10, 10))
    assert _hits([there, drawn, other], planted) == [0, -1, -1]
    assert _hits([other, drawn, there], planted) == [-1, 0, -1]


def test_every_change_of_a_copy_gives_a_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    for name, change in _CHANGES.items():
        made = change(picture)
        assert (made.dtype, made.ndim) == (np.uint8, 3), name
