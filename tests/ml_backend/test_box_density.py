"""The cap on boxes per pixel does exactly what counting every pixel would do."""

from __future__ import annotations

import numpy as np
import pytest

from ml_backend.box_density import within_density


def _by_pixels(boxes: np.ndarray, score: np.ndarray, at_most: int, always: set[int]) -> list[int]:  # type: ignore[type-arg]
    """The published rule: a count per pixel."""
    size = int(np.ceil(boxes.max())) + 1 if len(boxes) else 1
    count, kept = np.zeros((size, size), int), []
    for i in sorted(range(len(boxes)), key=lambda i: (i not in always, -score[i])):
        (x0, y0), (x1, y1) = np.floor(boxes[i, :2]).astype(int), np.ceil(boxes[i, 2:]).astype(int)
        here = count[y0:y1, x0:x1]
        if i in always or not here.size or here.max() < at_most:
            here += 1
            kept.append(i)
    return sorted(kept)


@pytest.mark.parametrize("at_most", [1, 2, 3])
def test_as_counting_pixels(at_most: int) -> None:
    rng = np.random.default_rng(at_most)
    for _ in range(60):
        n = int(rng.integers(0, 40))
        corner, size = rng.uniform(0, 60, (n, 2)), rng.uniform(0, 40, (n, 2))
        boxes = np.concatenate([corner, corner + size], axis=1).round(int(rng.integers(0, 2)))
        score = rng.random(n).round(1)
        always = set(np.flatnonzero(rng.random(n) < 0.1).tolist())
        found = within_density(
            boxes.astype(np.float32), score.astype(np.float32), at_most=at_most, always=always
        )
        assert found == _by_pixels(boxes.astype(np.float32), score.astype(np.float32), at_most, always)


def test_two_lie_on_a_pixel_and_the_third_goes() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [9, 9, 20, 20], [10, 0, 20, 9]], np.float32)
    score = np.array([0.9, 0.5, 0.8, 0.4], np.float32)
    assert within_density(boxes, score, at_most=2) == [0, 2, 3]
    assert within_density(boxes, score, at_most=1) == [0, 3]
    assert within_density(boxes, score, at_most=2, always=[1]) == [0, 1, 3], "pixel 9, 9 is full"


def test_boxes_that_touch_share_no_pixel() -> None:
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 20, 20]], np.float32)
    assert within_density(boxes, np.ones(3, np.float32), at_most=1) == [0, 1, 2]


def test_none_at_all_is_no_cap() -> None:
    with pytest.raises(ValueError, match="would keep none"):
        within_density(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), at_most=0)
