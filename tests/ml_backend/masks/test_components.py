"""Connected components of masks as RLEs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ml_backend.masks.components import components, place_mask
from ml_backend.masks.rle import decode_rle, empty_rle, encode_mask
from ml_backend.masks.shapes import whole_rle


@pytest.mark.parametrize("seed", range(6))
def test_components_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(37 + seed, 61)), 2) > 0.1
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    expected = sorted((tuple(np.flatnonzero(parts == k)) for k in range(1, count + 1)), key=len, reverse=True)
    found = [tuple(np.flatnonzero(decode_rle(rle))) for rle in components(encode_mask(mask), min_area_px=1)]
    assert sorted(found) == sorted(expected)
    assert [len(part) for part in found] == [len(part) for part in expected]


def test_specks_and_empty_masks_are_left_out() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:6, 2:6] = True
    mask[10, 10] = True
    assert len(components(encode_mask(mask))) == 1
    assert components(empty_rle((20, 30)), min_area_px=0) == []
    assert components(whole_rle((20, 30))) == [whole_rle((20, 30))]


def test_a_small_bitmap_is_placed_where_it_belongs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width = rng.integers(3, 12, 2)
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        full = np.zeros((height, width), bool)
        full[y : y + h, x : x + w] = rng.random((h, w)) < 0.7
        placed = place_mask(full[y : y + h, x : x + w], (int(x), int(y)), (int(height), int(width)))
        assert placed == encode_mask(full)
