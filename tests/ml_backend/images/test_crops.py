"""Crops of instances for review."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ml_backend.errors import BadInput
from ml_backend.images.crops import CropStore, crop_window, render_crop
from ml_backend.images.store import ImageStore
from ml_backend.masks.rle import encode_mask
from ml_backend.settings import BackendSettings
from tests.ml_backend.helpers import image_bytes


def pixels_of(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@given(
    x0=st.integers(0, 90),
    y0=st.integers(0, 60),
    w=st.integers(1, 100),
    h=st.integers(1, 70),
    context=st.floats(0, 2),
)
def test_windows_hold_the_box_and_stay_inside(x0: int, y0: int, w: int, h: int, context: float) -> None:
    box = (float(x0), float(y0), float(min(x0 + w, 100)), float(min(y0 + h, 70)))
    left, top, right, bottom = crop_window(box, (70, 100), context=context)
    assert 0 <= left < right <= 100
    assert 0 <= top < bottom <= 70
    assert right - left >= min(48, 100)
    assert bottom - top >= min(48, 70)
    for low, high, start, stop, limit in (
        (box[0], box[2], left, right, 100),
        (box[1], box[3], top, bottom, 70),
    ):
        assert start <= low + 1
        assert stop >= high - 1 or stop == limit


@pytest.mark.parametrize("background", [0, 90, 128, 200, 255])
def test_the_outline_stands_out_on_any_background(background: int) -> None:
    image = np.full((200, 300, 3), background, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[80:120, 130:180] = True
    crop = pixels_of(render_crop(image, encode_mask(mask), size_px=320)).astype(int)
    assert max(crop.shape[:2]) == 320
    away = np.abs(crop - background).max(axis=2)
    assert (away > 90).mean() > 0.01, "no outline to be seen"
    assert (away < 12).mean() > 0.8, "the picture itself is hidden"
    plain = pixels_of(render_crop(image, encode_mask(mask), size_px=320, outline=False)).astype(int)
    assert np.abs(plain - background).max() < 12


def test_the_outline_runs_along_the_edge_and_round_holes() -> None:
    image = np.full((100, 100, 3), 128, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    mask[40:60, 40:60] = False
    crop = pixels_of(render_crop(image, encode_mask(mask), size_px=400, context=1.0)).astype(int)
    marked = np.abs(crop - 128).max(axis=2) > 60
    ys, xs = np.nonzero(marked)
    assert ys.min() == pytest.approx(80, abs=6)  # window = whole image, so four pixels per pixel
    assert xs.max() == pytest.approx(320, abs=6)
    assert marked[155:165, 200].any()
    assert not marked[100:140, 200].any()
    assert not marked[180:220, 180:220].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_thin_masks_show(size: tuple[int, int]) -> None:
    image = np.full((2000, 2000, 3), 128, np.uint8)
    mask = np.zeros((2000, 2000), bool)
    mask[1000 : 1000 + size[0], 1990 : 1990 + size[1]] = True
    crop = pixels_of(render_crop(image, encode_mask(mask), size_px=256)).astype(int)
    assert (np.abs(crop - 128).max(axis=2) > 60).any()


def test_wrong_masks_are_refused() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(BadInput, match="size"):
        render_crop(image, encode_mask(np.ones((10, 11), bool)))
    with pytest.raises(BadInput, match="empty"):
        render_crop(image, encode_mask(np.zeros((10, 10), bool)))


def test_crops_are_rendered_once(tmp_path: Path) -> None:
    images = ImageStore(BackendSettings(data_dir=tmp_path))
    store = CropStore(tmp_path, images)
    ref = images.put(image_bytes())
    mask = np.zeros(ref.hw, bool)
    mask[5:15, 5:20] = True
    path = store.ensure(3, "t1-0011aabb", ref, encode_mask(mask))
    stamp = path.stat().st_mtime_ns
    assert store.ensure(3, "t1-0011aabb", ref, encode_mask(mask)) == path
    assert path.stat().st_mtime_ns == stamp
    assert store.find(3, "t1-0011aabb") == path
    assert store.find(3, "t2-0011aabb") is None
    assert store.find(3, "gold_7") is None
    for key in ("../x", "a/b", "", "x" * 101):
        with pytest.raises(BadInput, match="key"):
            store.path(3, key)
