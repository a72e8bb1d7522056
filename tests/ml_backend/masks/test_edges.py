"""Edge statistics tell a mask that ends at an edge of the picture from one that does not."""

from __future__ import annotations

import numpy as np

from ml_backend.masks.edges import EDGES, edge_statistics
from ml_backend.masks.rle import empty_rle, encode_mask


def disc(radius: float, *, at: tuple[int, int] = (40, 40), size: int = 80) -> np.ndarray:
    y, x = np.indices((size, size))
    return (y - at[0]) ** 2 + (x - at[1]) ** 2 < radius**2


def numbers(mask: np.ndarray, image: np.ndarray) -> dict[str, float]:
    return dict(zip(EDGES, edge_statistics(image, [encode_mask(mask)])[0].tolist(), strict=True))


def picture() -> np.ndarray:
    return np.repeat(np.where(disc(15), 200, 60).astype(np.uint8)[..., None], 3, axis=2)


def test_a_true_outline_lies_on_the_edge() -> None:
    right = numbers(disc(15), picture())
    for wrong in (disc(10), disc(21), disc(15, at=(40, 49))):
        other = numbers(wrong, picture())
        assert right["outline_edge"] > 1.3 * other["outline_edge"]
        assert right["rim_contrast"] > other["rim_contrast"] + 0.05
    assert abs(right["core_contrast"] - 140 / 255) < 0.02
    assert abs(right["brightness"] - 200 / 255) < 0.01
    assert right["outline_to_inside"] > 0.3


def test_tiny_and_empty_masks_give_zeros() -> None:
    dot = np.zeros((80, 80), bool)
    dot[3, 3] = True
    found = edge_statistics(picture(), [encode_mask(dot), empty_rle((80, 80))])
    assert found.shape == (2, len(EDGES))
    assert not found.any()
    assert edge_statistics(picture(), []).shape == (0, len(EDGES))


def test_masks_at_the_border_are_finite() -> None:
    corner = np.zeros((80, 80), bool)
    corner[:5, :5] = True
    assert np.isfinite(edge_statistics(picture(), [encode_mask(corner), encode_mask(~dot_free())])).all()


def dot_free() -> np.ndarray:
    return np.zeros((80, 80), bool)
