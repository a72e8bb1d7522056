"""Statistics from RLEs agree with those of the decoded pixels."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.masks.statistics import STATISTICS, filled_masks, mask_runs, mask_statistics


def encode(bitmap: np.ndarray) -> Rle:
    found = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": list(bitmap.shape), "counts": found["counts"].decode()}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))).filter(lambda a: a.size > 0),
        min_size=1,
        max_size=5,
    )
)
def test_runs_rebuild_the_pixels(bitmaps: list[np.ndarray]) -> None:
    assert filled_masks([encode(b) for b in bitmaps]).tolist() == [bool(b.any()) for b in bitmaps]
    runs = mask_runs([encode(b) for b in bitmaps])
    for i, bitmap in enumerate(bitmaps):
        again = np.zeros_like(bitmap)
        for k in np.flatnonzero(runs.mask == i):
            row, column = runs.row[k], runs.column[k]
            assert not again[row : row + runs.length[k], column].any()
            again[row : row + runs.length[k], column] = True
        np.testing.assert_array_equal(again, bitmap)


def test_long_runs_and_many_masks() -> None:
    rng = np.random.default_rng(0)
    bitmaps = [rng.random((300, 200)) < p for p in (0.0, 1.0, 0.001, 0.5, 0.999)] * 60
    runs = mask_runs([encode(b) for b in bitmaps])
    areas = np.bincount(runs.mask, runs.length, len(bitmaps))
    assert areas.tolist() == [int(b.sum()) for b in bitmaps]


def column(name: str, bitmap: np.ndarray) -> float:
    return float(mask_statistics([encode(bitmap)])[0, STATISTICS.index(name)])


def test_values_of_known_shapes() -> None:
    rows, columns = np.mgrid[:120, :200]
    disc = (columns - 100) ** 2 + (rows - 60) ** 2 <= 30**2
    assert column("ellipse_fill", disc) == pytest.approx(1, abs=0.01)
    assert column("extent", disc) == pytest.approx(disc.sum() / 61**2)
    assert column("aspect", disc) == 0
    assert column("border", disc) == 0
    assert column("raggedness", disc) == 0
    assert column("area_share", disc) == pytest.approx(disc.sum() / disc.size)
    assert column("log_area", disc) == pytest.approx(np.log1p(disc.sum()), rel=1e-6)

    ring = disc & ((columns - 100) ** 2 + (rows - 60) ** 2 > 20**2)
    assert column("ellipse_fill", ring) < 0.5
    assert column("raggedness", ring) > 0.5

    bar = np.zeros((100, 200), bool)
    bar[10:20, :80] = True
    assert column("aspect", bar) == pytest.approx(np.log(8))
    assert column("border", bar) == pytest.approx(10 / 180)
    assert column("extent", bar) == 1
    everything = np.ones((40, 50), bool)
    assert column("border", everything) == 1
    assert column("area_share", everything) == 1


def test_empty_masks_and_no_masks() -> None:
    assert not mask_statistics([encode(np.zeros((5, 7), bool))]).any()
    assert mask_statistics([]).shape == (0, len(STATISTICS))


def test_bare_counts_need_the_size() -> None:
    bitmap = np.eye(9, dtype=bool)
    rle = encode(bitmap)
    np.testing.assert_array_equal(mask_statistics([str(rle["counts"])], (9, 9)), mask_statistics([rle]))
    with pytest.raises(BadInput, match="the image has 0"):
        mask_statistics([str(rle["counts"])])


@pytest.mark.parametrize("counts", ["", "zzzz", "0", "PPPPPPPPPPPPPPPPPPPPPP", "\x00\x01", 7])
def test_damaged_counts_are_named(counts: object) -> None:
    good = encode(np.eye(9, dtype=bool))
    with pytest.raises(BadInput) as caught:
        mask_runs([good, {"size": [9, 9], "counts": counts}])
    assert caught.value.field == "rle[1]"


def test_scales_with_runs_not_pixels() -> None:
    """Ten thousand masks of 12 megapixels: decoding them would take 120 GB of pixels."""
    bitmap = np.zeros((3000, 4000), bool)
    bitmap[1000:1050, 2000:2040] = True
    started = time.perf_counter()
    found = mask_statistics([encode(bitmap)] * 10_000)
    assert found.shape == (10_000, len(STATISTICS))
    assert (found == found[0]).all()
    print(f"{time.perf_counter() - started:.2f} s")
