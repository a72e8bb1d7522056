"""Edge statistics tell a mask that ends at an edge of the picture from one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from ml_backend.masks import edges
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


def test_equal_pictures_give_equal_bits_wherever_they_lie_in_memory() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 77, 3)).astype(np.uint8)
    masks = [encode_mask(rng.random((60, 77)) < share) for share in (0.2, 0.5, 0.8)]
    kept, seen = [], set()
    for size in rng.integers(1, 3000, 100).tolist():
        kept.append(np.empty(size, np.uint8))  # so that what comes next lies elsewhere
        seen.add(edge_statistics(image, masks).tobytes())
    assert len(seen) == 1


def test_tiny_and_empty_masks_give_zeros() -> None:
    dot = np.zeros((80, 80), bool)
    dot[3, 3] = True
    found = edge_statistics(picture(), [encode_mask(dot), empty_rle((80, 80))])
    assert found.shape == (2, len(EDGES))
    assert not found.any()
    assert edge_statistics(picture(), []).shape == (0, len(EDGES))


def test_only_the_surroundings_of_a_mask_count() -> None:
    """The same numbers in a larger picture, whatever else is on it, and next to other masks."""
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    image[100:180, 200:280] = picture()
    mask = np.zeros((300, 400), bool)
    mask[100:180, 200:280] = disc(15)
    far, near = np.zeros_like(mask), np.zeros_like(mask)
    far[:, :3], near[140, 230:300] = True, True
    rles = [encode_mask(far), encode_mask(mask), encode_mask(near)]
    expected = edge_statistics(picture(), [encode_mask(disc(15))])[0]
    found = edge_statistics(image, rles)
    np.testing.assert_allclose(found[1], expected, atol=1e-6)
    for i in (0, 2):
        np.testing.assert_allclose(found[i], edge_statistics(image, [rles[i]])[0], atol=1e-6)


def masks_of_every_kind(height: int, width: int) -> Iterator[np.ndarray]:
    for rows, columns in product(
        (slice(None), slice(0, 1), slice(-1, None), slice(0, 5), slice(-5, None)), repeat=2
    ):
        mask = np.zeros((height, width), bool)
        mask[rows, columns] = True
        yield mask
        yield ~mask
    rng = np.random.default_rng(1)
    for share in (0.01, 0.5, 0.99):
        yield rng.random((height, width)) < share


@pytest.mark.parametrize("hw", [(60, 70), (1, 50), (50, 1), (1, 1), (2, 2), (3, 4)])
@pytest.mark.parametrize("grey", [None, 0, 255])
def test_every_mask_gives_finite_numbers(hw: tuple[int, int], grey: int | None) -> None:
    image = np.random.default_rng(2).integers(0, 256, (*hw, 3)).astype(np.uint8)
    if grey is not None:
        image[:] = grey
    masks = list(masks_of_every_kind(*hw))
    found = edge_statistics(image, [encode_mask(mask) for mask in masks])
    assert found.shape == (len(masks), len(EDGES))
    assert np.isfinite(found).all()
    if grey is not None:  # a picture without edges: nothing but its brightness to tell
        brightness = EDGES.index("brightness")
        np.testing.assert_allclose(np.delete(found, brightness, axis=1), 0, atol=1e-5)
        some = np.array([mask.sum() >= 4 for mask in masks])
        np.testing.assert_allclose(found[some, brightness], grey / 255, atol=1e-6)


def test_parts_that_a_mask_does_not_have_tell_nothing() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    whole = numbers(np.ones((40, 40), bool), image)
    assert (whole["rim_contrast"], whole["core_contrast"], whole["outline_to_inside"]) == (0, 0, 0)
    line = np.zeros((40, 40), bool)
    line[20, 5:35] = True  # no core
    image[20] = 255
    thin = numbers(line, image)
    assert thin["core_contrast"] == 0
    assert thin["rim_contrast"] == pytest.approx(55 / 255, abs=0.01)


def test_grey_and_transparent_pictures() -> None:
    rle = encode_mask(disc(14))
    rgb = picture()
    expected = edge_statistics(rgb, [rle])
    alpha = np.random.default_rng(3).integers(0, 256, (80, 80, 1)).astype(np.uint8)
    for image in (rgb[..., 0], rgb[..., :1], np.concatenate([rgb, alpha], axis=2), rgb[::-1][::-1]):
        np.testing.assert_allclose(edge_statistics(image, [rle]), expected, atol=1e-6)
    assert edge_statistics(np.zeros((0, 0, 3), np.uint8), []).shape == (0, len(EDGES))
    assert not edge_statistics(np.zeros((0, 5, 3), np.uint8), [empty_rle((0, 5))]).any()


@pytest.mark.parametrize(
    "image", [np.zeros((80, 80, 2), np.uint8), np.zeros((80, 80, 3), np.float32), np.zeros(80, np.uint8)]
)
def test_refuses_what_is_no_picture(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        edge_statistics(image, [encode_mask(disc(5))])


def test_refuses_masks_of_another_size() -> None:
    with pytest.raises(ValueError, match="a mask is 80×80"):
        edge_statistics(np.zeros((80, 81, 3), np.uint8), [encode_mask(disc(5))])


def test_the_work_is_bounded_by_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small masks are cut out of huge pictures, and masks of a whole picture are looked at in steps."""
    seen: list[int] = []
    plain = edges._one

    def one(mask: np.ndarray, value: np.ndarray) -> list[float]:
        assert mask.shape == value.shape
        seen.append(mask.size)
        return plain(mask, value)

    monkeypatch.setattr(edges, "_one", one)
    image = np.zeros((3000, 4000), np.uint8)
    image[500:2500, 500:3500] = 200
    small, large = np.zeros((3000, 4000), bool), image > 0
    small[1000:1010, 2000:2020] = True
    found = edge_statistics(image, [encode_mask(small), encode_mask(large)])
    assert seen[0] == (10 + 16) * (20 + 16)
    assert seen[1] <= edges._LARGEST
    right = dict(zip(EDGES, found[1].tolist(), strict=True))
    assert right["rim_contrast"] == pytest.approx(200 / 255, abs=1e-3)
    assert right["outline_to_inside"] > 1
