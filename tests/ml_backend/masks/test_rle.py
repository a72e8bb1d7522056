"""Brush RLE against Label Studio's own codec, and the pixel-free ways between the two RLEs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.converter.brush import decode_rle as studio_decode
from label_studio_sdk.converter.brush import encode_rle as studio_encode
from label_studio_sdk.converter.brush import mask2rle as studio_mask2rle

from ml_backend.errors import BadInput, BadRegion
from ml_backend.label_studio.codecs.brush import brush_to_rle, decode_brush, encode_brush, rle_to_brush
from ml_backend.masks.rle import (
    decode_rle,
    empty_rle,
    encode_mask,
    parse_rle,
    rle_area,
    rle_box,
    rle_hw,
    rle_iou,
    rle_toggles,
    toggles_to_rle,
    transpose_toggles,
)

Mask = npt.NDArray[np.bool_]
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def disc(height: int, width: int, radius: int) -> Mask:
    canvas = np.zeros((height, width), np.uint8)
    cv2.circle(canvas, (width // 2, height // 2), radius, 1, -1)
    return canvas > 0


def blobs(height: int, width: int, n: int, seed: int = 0) -> Mask:
    rng = np.random.default_rng(seed)
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(n):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.ellipse(canvas, centre, (int(rng.integers(2, 30)), int(rng.integers(2, 30))), 30, 0, 360, 1, -1)
    return canvas > 0


SHAPES = {
    "disc": disc(120, 160, 40),
    "blobs": blobs(200, 300, 20),
    "empty": np.zeros((9, 7), bool),
    "full": np.ones((9, 7), bool),
    "one pixel": np.ones((1, 1), bool),
    "row": np.array([[True, False, True, True]]),
    "column": np.array([[True], [False], [True]]),
    "noise": np.random.default_rng(1).random((60, 50)) < 0.5,
    "long runs": disc(300, 400, 140),  # runs beyond 2^16 bytes above and below the disc
    "all of a large image": np.ones((300, 400), bool),
}


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES)
def test_encodes_the_same_bytes_as_the_sdk(mask: Mask) -> None:
    expected = studio_mask2rle((mask * 255).astype(np.uint8))
    assert encode_brush(mask) == expected
    assert rle_to_brush(encode_mask(mask)) == expected


@given(masks)
@settings(max_examples=150, deadline=None)
def test_round_trips(mask: Mask) -> None:
    rle = encode_mask(mask)
    data = encode_brush(mask)
    assert data == studio_mask2rle((mask * 255).astype(np.uint8))
    assert rle_to_brush(rle) == data
    np.testing.assert_array_equal(decode_brush(data, mask.shape), mask)
    assert brush_to_rle(data, mask.shape) == rle
    np.testing.assert_array_equal(decode_rle(rle), mask)
    assert toggles_to_rle(rle_toggles(rle), rle_hw(rle)) == rle
    assert empty_rle(mask.shape) == encode_mask(np.zeros_like(mask))


@given(masks)
@settings(max_examples=100, deadline=None)
def test_transposed_toggles_are_those_of_the_transposed_mask(mask: Mask) -> None:
    def toggles(m: Mask) -> npt.NDArray[np.int64]:
        flat = np.concatenate(([False], m.reshape(-1)))
        return np.flatnonzero(flat[1:] != flat[:-1])

    height, width = mask.shape
    np.testing.assert_array_equal(
        transpose_toggles(toggles(mask), height, width), toggles(np.ascontiguousarray(mask.T))
    )


@pytest.mark.parametrize("sizes", [(3, 4, 8, 16), (1, 2, 9, 15)])
def test_decodes_streams_whose_channels_differ(sizes: tuple[int, ...]) -> None:
    """The editor may write coloured pixels and other run sizes."""
    rng = np.random.default_rng(3)
    mask = disc(40, 50, 15)
    rgba = rng.integers(0, 255, (40, 50, 4)).astype(np.uint8)
    rgba[..., 3] = np.where(mask, rng.integers(128, 256, mask.shape), rng.integers(0, 128, mask.shape))
    data = studio_encode(rgba.reshape(-1)) if sizes == (3, 4, 8, 16) else _literals(rgba, sizes)
    np.testing.assert_array_equal(decode_brush(data, (40, 50)), mask)
    assert brush_to_rle(data, (40, 50)) == encode_mask(mask)


def _literals(rgba: npt.NDArray[np.uint8], sizes: tuple[int, ...]) -> list[int]:
    """An independent writer of the format that uses literal tokens of several lengths."""
    flat = rgba.reshape(-1)
    bits = f"{len(flat):032b}{7:05b}" + "".join(f"{s - 1:04b}" for s in sizes)
    at, turn = 0, 0
    while at < len(flat):
        choice = turn % 4
        count = min(2 ** sizes[choice], len(flat) - at, 300)
        bits += f"0{choice:02b}{count - 1:0{sizes[choice]}b}"
        bits += "".join(f"{v:08b}" for v in flat[at : at + count])
        at, turn = at + count, turn + 1
    bits += "0" * (8 - len(bits) % 8)
    data = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert np.array_equal(studio_decode(data), flat)
    return data


GOOD = encode_brush(disc(20, 30, 8))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "too short"),
        (GOOD[:6], "too short"),
        (GOOD[:12], "ends after"),
        ([300] * 20, "list of bytes"),
        ([*GOOD[:9], 256], "list of bytes"),
        (["a"] * 20, "list of bytes"),
        ([0, 0, 255, 255, *GOOD[4:]], "needs 2400"),
        ([*GOOD[:4], 255, *GOOD[5:]], "bits"),
    ],
)
def test_broken_streams_are_named(data: list[int], words: str) -> None:
    with pytest.raises(BadRegion, match=words):
        decode_brush(data, (20, 30))


@given(st.binary(min_size=0, max_size=80))
@settings(max_examples=300, deadline=None)
def test_random_bytes_decode_or_fail_as_bad_region(tail: bytes) -> None:
    data = [*GOOD[:7], *tail]
    try:
        mask = decode_brush(data, (20, 30))
    except BadRegion:
        return
    assert mask.shape == (20, 30)


def test_helpers() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    other = np.zeros((10, 12), bool)
    other[2:5, 6:12] = True
    a, b = encode_mask(mask), encode_mask(other)
    assert rle_area(a) == 18
    assert rle_box(a) == (3.0, 2.0, 9.0, 5.0)
    assert rle_iou([a], [a, b])[0].tolist() == [1.0, pytest.approx(9 / 27)]
    assert rle_iou([], [a]).shape == (0, 1)
    with pytest.raises(BadRegion, match="no pixels"):
        encode_brush(np.zeros((0, 5), bool))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        encode_mask(np.zeros((2, 2, 3), bool))


@given(masks)
@settings(max_examples=100, deadline=None)
def test_masks_from_outside_are_read_in_all_three_forms(mask: Mask) -> None:
    rle = encode_mask(mask)
    size, counts = rle["size"], str(rle["counts"])
    flat = np.concatenate(([False], mask.T.reshape(-1)))
    lengths = np.diff(np.flatnonzero(np.diff(flat)), prepend=0, append=mask.size).tolist()
    for form in (counts, counts.encode(), lengths):
        assert parse_rle({"size": size, "counts": form, "more": 1}, mask.shape) == rle
    assert parse_rle({"size": tuple(mask.shape), "counts": counts}) == rle


SQUARE = encode_mask(np.pad(np.ones((3, 3), bool), 3))


@pytest.mark.parametrize(
    ("change", "words", "field"),
    [
        ({"counts": "zzz"}, "outside of", "counts"),
        ({"counts": "é3"}, "not ASCII", "counts"),
        ({"counts": b"\xff3"}, "not ASCII", "counts"),
        ({"counts": ""}, "no counts", "counts"),
        ({"counts": str(SQUARE["counts"]) + "1"}, "pixels long|cover 85", "counts"),
        ({"counts": str(SQUARE["counts"])[:-1]}, "cover|inside a number", "counts"),
        ({"counts": "P"}, "ends? inside a number", "counts"),
        ({"counts": "PPPPPPPPPPPPPPP1"}, "too long", "counts"),
        ({"counts": "ooooooO" * 3}, "pixels long|too long|cover", "counts"),
        ({"counts": "O1"}, "-1 pixels long", "counts"),
        ({"counts": [1, 80.0]}, "not the length", "counts[1]"),
        ({"counts": [-1, 82]}, "not the length", "counts[0]"),
        ({"counts": [2**63, 2**63]}, "not the length", "counts[0]"),
        ({"counts": [10**400]}, "not the length", "counts[0]"),
        ({"counts": [True, 80]}, "not the length", "counts[0]"),
        ({"counts": [80]}, "cover 80 pixels", "counts"),
        ({"counts": None}, "text or a list", "counts"),
        ({"size": [9, 8]}, "the image 9×9", "size"),
        ({"size": [9]}, r"\[height, width\]", "size"),
        ({"size": "99"}, r"\[height, width\]", "size"),
        ({"size": [9.0, 9]}, "whole numbers", "size"),
        ({"size": [-9, -9]}, "not the size", "size"),
        ({"size": [2**40, 2**40]}, "not the size", "size"),
    ],
)
def test_hostile_masks_from_outside_are_named(change: dict[str, Any], words: str, field: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        parse_rle({**SQUARE, **change}, (9, 9), field="mask")
    assert caught.value.field == f"mask.{field}"
    with pytest.raises(BadInput, match="object with size and counts"):
        parse_rle([1, 2], field="mask")


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=40))
@settings(max_examples=300, deadline=None)
def test_random_counts_cover_the_image_or_are_refused(counts: str) -> None:
    try:
        rle = parse_rle({"size": [9, 9], "counts": counts})
    except BadInput:
        with pytest.raises(BadInput):
            decode_rle({"size": [9, 9], "counts": counts})
        return
    assert decode_rle(rle).sum() == rle_area(rle)
