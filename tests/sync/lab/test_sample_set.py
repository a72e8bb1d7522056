"""The generated sample set: same seed same pictures, a truth that fits what is seen, readable as COCO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.masks.coco import load_coco
from sync.lab.sample_set import LABELS, Picture, draw_picture, make_sample_set


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [draw_picture(np.random.default_rng([7, i]), (192, 256)) for i in range(12)]


def test_the_same_seed_draws_the_same_picture() -> None:
    first, second = (draw_picture(np.random.default_rng(3), (96, 128)) for _ in range(2))
    assert np.array_equal(first.rgb, second.rgb)
    assert np.array_equal(first.mask, second.mask)
    assert first.label == second.label
    other = draw_picture(np.random.default_rng(4), (96, 128))
    assert not np.array_equal(first.rgb, other.rgb)


def test_visible_masks_never_overlap(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert picture.mask.shape == (len(picture.label), 192, 256)
        assert picture.rgb.shape == (192, 256, 3)
        assert picture.rgb.dtype == np.uint8
        # halving the size lets two masks share a border pixel at exactly half cover
        shared = int((picture.mask.sum(axis=0) > 1).sum())
        assert shared <= 0.01 * picture.mask.sum()
        assert all(mask.sum() > 40 for mask in picture.mask)


def test_every_label_occurs_and_washers_have_holes(pictures: list[Picture]) -> None:
    seen = {label for picture in pictures for label in picture.label}
    assert seen == set(range(len(LABELS)))
    import cv2

    holes = 0
    for picture in pictures:
        for label, mask in zip(picture.label, picture.mask, strict=True):
            if LABELS[label] == "washer":
                _, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
                holes += int((hierarchy[0, :, 3] >= 0).any())
    assert holes >= 3


def test_masks_lie_on_things_that_stand_out(pictures: list[Picture]) -> None:
    """Colour changes more across the outline of the masks than across the same outlines put elsewhere."""
    real, moved = [], []
    for picture in pictures:
        grey = picture.rgb.astype(float).mean(axis=2)
        for mask in picture.mask:
            for shift, out in ((0, real), (40, moved)):
                m = np.roll(mask, shift, axis=1)
                edge = m[:, 1:] != m[:, :-1]
                step = np.abs(grey[:, 3:] - grey[:, :-3])
                out.append(step[:, : edge.shape[1] - 2][edge[:, 1:-1]].mean() if edge[:, 1:-1].any() else 0.0)
    assert np.median(real) > 2 * np.median(moved)


def test_the_folder_is_a_coco_set_and_is_kept(tmp_path: Path) -> None:
    folder = make_sample_set(tmp_path / "set", n=3, seed=1, hw=(96, 128))
    coco = load_coco(folder / "images", folder / "annotations.json")
    assert coco.categories == LABELS
    assert [image.path.name for image in coco.images] == ["sample000.jpg", "sample001.jpg", "sample002.jpg"]
    assert coco.n_instances >= 6
    stamp = (folder / "annotations.json").stat().st_mtime_ns
    make_sample_set(folder, n=5, seed=2)
    assert (folder / "annotations.json").stat().st_mtime_ns == stamp
