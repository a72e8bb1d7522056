"""Perceptual hashes: a picture that was compressed, resized or brightened keeps nearly all bits."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ml_backend.images.fingerprints import fingerprint


def scene(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC), np.uint8)


def apart(first: np.ndarray, second: np.ndarray) -> int:  # type: ignore[type-arg]
    left, right = fingerprint(first), fingerprint(second)
    assert left is not None
    assert right is not None
    return int(np.bitwise_count(left ^ right).sum())


def test_changes_that_people_do_not_see_move_few_bits() -> None:
    picture = scene(0)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=40)
    compressed = np.asarray(Image.open(file))
    smaller = cv2.resize(picture, (200, 150), interpolation=cv2.INTER_AREA)
    brighter = np.clip(picture.astype(int) + 20, 0, 255).astype(np.uint8)
    assert apart(picture, picture) == 0
    for other in (compressed, smaller, brighter):
        assert apart(picture, np.asarray(other, np.uint8)) <= 24


def test_other_pictures_differ_in_about_half_the_bits() -> None:
    assert min(apart(scene(0), scene(seed)) for seed in range(1, 12)) > 60


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_even_picture_has_none(value: int) -> None:
    assert fingerprint(np.full((40, 60, 3), value, np.uint8)) is None
