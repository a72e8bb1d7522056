"""Regions that nobody could draw: each is left out with a reason, and costs neither time nor memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.errors import BadInput
from ml_backend.label_studio.codecs.brush import decode_brush, encode_brush
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.coco import segmentation_to_rle
from ml_backend.masks.outlines import polygon_to_rle
from ml_backend.masks.rle import decode_rle, parse_rle, rle_area, toggles_to_rle, transpose_toggles
from tests.fuzzing import fuzz, junk, numbers, refusal

HW = (30, 40)
MB = 1024**2
CONFIGS = {
    name: parse_label_config(build_label_config(["cat", "dog"], output=name))  # type: ignore[arg-type]
    for name in ("bitmask", "brush", "polygon")
} | {"rectangle": parse_label_config(build_label_config(["cat", "dog"], kind="boxes"))}
BRUSH = encode_brush(np.pad(np.ones((10, 10), bool), ((5, 15), (5, 25))))
TYPES = [control.type for config in CONFIGS.values() for control in config.outputs]
NAMES = [control.name for config in CONFIGS.values() for control in config.outputs]

points = st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=6) | st.lists(junk, max_size=4)
brushes = (
    st.lists(st.integers(0, 255), max_size=40)
    | st.binary(max_size=60).map(lambda tail: [*BRUSH[:7], *tail])
    | st.lists(st.integers(-5, 300) | junk, max_size=10).map(lambda tail: [*BRUSH[:4], *tail])
)
values = st.fixed_dictionaries(
    {},
    optional={
        **{kind: st.just(["cat"]) | st.lists(junk, max_size=2) | junk for kind in dict.fromkeys(TYPES)},
        "points": points | junk,
        "rle": brushes | junk,
        "format": st.just("rle") | junk,
        "imageDataURL": st.text(max_size=30).map("data:image/png;base64,{}".format) | junk,
        **{key: numbers | junk for key in ("x", "y", "width", "height", "rotation")},
    },
)
coordinates = numbers.filter(lambda number: abs(number) < 1e308 or number != number)
sizes = st.sampled_from([HW[0], HW[1], 46_340, 2**31 - 1, 1]) | numbers | junk
items = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES) | junk,
        "value": values | junk,
        "from_name": st.sampled_from(NAMES) | junk,
    },
    optional={
        "original_width": sizes,
        "original_height": sizes,
        "to_name": st.just("image") | junk,
        "id": junk,
        "score": numbers | junk,
        "meta": junk,
        "origin": junk,
        "is_positive": junk,
    },
)


def whole(control: str, **value: Any) -> dict[str, Any]:
    """A result of the only output tag of a config, with the size of the picture."""
    (output,) = CONFIGS[control].outputs
    return {
        "from_name": output.name, "to_name": "image", "type": output.type, "original_width": HW[1],
        "original_height": HW[0], "value": {output.type: ["cat"], **value},
    }  # fmt: skip


@given(
    result=st.lists(items, max_size=4), config=st.sampled_from(list(CONFIGS.values())), has_size=st.booleans()
)
@fuzz(150)
def test_any_results_are_read_or_left_out(
    result: list[dict[str, Any]], config: LabelConfig, has_size: bool
) -> None:
    found = refusal(lambda: parse_annotation(result, config, HW if has_size else None))
    if isinstance(found, BadInput):
        assert found.field.startswith("result")
        return
    assert len(found.regions) + len(found.dropped) <= len(result)
    assert all(left.reason for left in found.dropped)
    for region in found.regions:
        assert parse_rle(region.rle, region.rle["size"]) == region.rle  # type: ignore[arg-type]
        assert rle_area(region.rle) > 0
        assert np.isfinite(region.box_xyxy).all()
    validate_result(result, config)


@given(
    value=st.fixed_dictionaries(
        {"size": st.lists(st.integers(0, 12) | numbers, min_size=2, max_size=2) | junk},
        optional={
            "counts": st.lists(st.integers(-2, 40) | numbers, max_size=8)
            | st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=20)
            | st.binary(max_size=12)
            | junk
        },
    )
    | junk,
    hw=st.none() | st.just((5, 7)),
)
@fuzz(300)
def test_any_run_lengths_are_a_mask_or_are_refused_by_name(value: Any, hw: tuple[int, int] | None) -> None:
    rle = refusal(lambda: parse_rle(value, hw, field="mask"))
    if isinstance(rle, BadInput):
        assert rle.field.split(".")[0] == "mask"
        assert len(str(rle)) < 1000
        return
    height, width = rle["size"]  # type: ignore[misc]
    assert height * width <= 2**31 - 1
    if height * width < 10_000:
        assert decode_rle(rle).sum() == rle_area(rle)


@given(
    st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8),
    st.tuples(st.integers(1, 60), st.integers(1, 60)) | st.sampled_from([(1, 2**31 - 1), (46_340, 46_340)]),
)
@fuzz(80)
def test_any_polygon_is_filled_within_its_picture(
    corners: list[tuple[float, float]], hw: tuple[int, int]
) -> None:
    ring = np.array([[float(x), float(y)] for x, y in corners])
    rle = refusal(lambda: polygon_to_rle(ring, hw))
    if isinstance(rle, BadInput):
        assert rle.field == "value.points"
        return
    assert rle["size"] == list(hw)
    assert 0 <= rle_area(rle) <= hw[0] * hw[1]


@given(st.lists(st.tuples(st.floats(-40, 80), st.floats(-40, 80)), min_size=3, max_size=7))
@fuzz(100)
def test_what_the_border_cuts_off_is_not_filled_and_the_rest_is(corners: list[tuple[float, float]]) -> None:
    """Compared with the definition: a pixel belongs to it when its centre is inside (even-odd rule)."""
    ring = np.array(corners)
    y, x = np.mgrid[: HW[0], : HW[1]] + 0.5
    inside, near = np.zeros(HW, bool), np.zeros(HW, bool)
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        crosses = (a[0] <= x) != (b[0] <= x)
        at = a[1] + (x - a[0]) / np.where(crosses, b[0] - a[0], 1) * (b[1] - a[1])
        inside ^= crosses & (y < at)
        along = np.clip(
            ((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / max(((b - a) ** 2).sum(), 1e-9), 0, 1
        )
        near |= np.hypot(a[0] + along * (b - a)[0] - x, a[1] + along * (b - a)[1] - y) < 1.2
    wrong = decode_rle(polygon_to_rle(ring, HW)) != inside
    assert not (wrong & ~near).any()  # COCO rounds along the outline


SIDE = 46_340
HUGE: Mapping[str, Any] = {"original_width": SIDE, "original_height": SIDE}
"""the largest square that a mask may have, two thousand million pixels, and a person can claim it"""


LONG = 12_000
"""a large picture"""


DENSE: Mapping[str, Any] = {"original_width": LONG, "original_height": LONG}


def stream(runs: Iterable[tuple[int, int]], total: int) -> list[int]:
    """A brush RLE of these runs (value, length up to 65536), as our own encoder would never write it."""
    bits = f"{total:032b}" + "00111" + "0010001101111111"
    bits += "".join(f"111{length - 1:016b}{value:08b}" for value, length in runs)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def odd_runs() -> list[int]:
    """Runs that all end inside of a pixel."""
    total = LONG * LONG * 4
    return stream([(0, 65_535)] * (total // 65_535) + [(255, total % 65_535)], total)


def stripes() -> list[int]:
    """Every other line of the picture: few runs line by line, one for every pixel column by column."""
    lengths = [65_536] * (LONG * 4 // 65_536) + [LONG * 4 % 65_536]
    return stream([(line % 2 * 255, n) for line in range(LONG) for n in lengths], LONG * LONG * 4)


@pytest.mark.parametrize(
    ("name", "result", "words"),
    [
        ("far", whole("polygon", points=[[-300, -300], [400, 50], [50, 400]]) | HUGE, ""),
        ("very far", whole("polygon", points=[[0, 0], [1e300, 0], [0, 1e300]]) | HUGE, ""),
        ("long", whole("polygon", points=[[0, 0], [100, 100], [0, 50]] * 40_000) | HUGE, "too long"),
        ("thin", whole("polygon", points=[[0, 0], [100, 0], [100, 100]])
         | {"original_width": 2**31 - 1, "original_height": 1}, "too long"),
        ("thin box", whole("rectangle", x=0, y=0, width=100, height=100)
         | {"original_width": 1, "original_height": 2**31 - 1}, "too long"),
        ("turned box", whole("rectangle", x=50, y=50, width=1e300, height=1e300, rotation=45) | HUGE, ""),
        ("odd runs", whole("brush", rle=odd_runs()) | DENSE, ""),
        ("stripes", whole("brush", rle=stripes()) | DENSE, "line to line"),
        ("literals", whole("brush", rle=encode_brush(np.ones((4, 4), bool))[:7] + [0] * 9_000_000), "needs"),
        ("another size", whole("brush", rle=BRUSH) | HUGE, "needs"),
        ("no size", whole("brush", rle=BRUSH) | {"original_width": 0}, "not positive"),
        ("beyond all sizes", whole("brush", rle=BRUSH) | {"original_width": 10**400}, "too large"),
    ],
)  # fmt: skip
def test_hostile_regions_take_little_memory(name: str, result: dict[str, Any], words: str) -> None:
    config = next(config for config in CONFIGS.values() if config.outputs[0].type == result["type"])
    tracemalloc.start()
    try:
        found = parse_annotation([result, {**result, "value": {}}], config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150 * MB, name
    left = found.dropped[0]
    assert len(found.dropped) == 2 - (not words)
    assert not words or words in left.reason
    assert left.broken


def test_noise_of_a_brush_takes_little_memory() -> None:
    mask = np.random.default_rng(0).random((200, 200)) < 0.5
    data = encode_brush(mask)
    tracemalloc.start()
    try:
        back = decode_brush(data, mask.shape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(back, mask)
    assert peak < 10 * MB, "tables of all its bits at once take 650 bytes a byte, 23 MB here"


@given(st.lists(st.tuples(st.sampled_from([0, 255]), st.integers(1, 90)), min_size=1, max_size=30))
@fuzz(100)
def test_runs_that_end_inside_of_a_pixel_are_read_by_their_fourth_values(runs: list[tuple[int, int]]) -> None:
    flat = np.repeat([value for value, _ in runs], [length for _, length in runs])
    flat = np.append(flat, np.zeros(-len(flat) % 4, np.int64))
    last = [(0, len(flat) - sum(n for _, n in runs))]
    data = stream([*runs, *[run for run in last if run[1]]], len(flat))
    np.testing.assert_array_equal(decode_brush(data, (1, len(flat) // 4))[0], flat[3::4] > 0)


def test_outlines_of_files_are_bounded_too() -> None:
    zigzag = [0.0, 0.0, 4000.0, 0.0] * 1000
    with pytest.raises(BadInput, match="too long") as caught:
        segmentation_to_rle([zigzag], (3000, 4000), field="annotations[3]")
    assert caught.value.field == "annotations[3]"


def test_stripes_are_turned_while_they_are_few() -> None:
    toggles = np.arange(0, 60 * 10, 10)
    turned = transpose_toggles(toggles, 60, 10)
    assert len(turned) == 600
    assert rle_area(toggles_to_rle(turned, (60, 10))) == 300
    many = np.arange(0, 5000) * 5000
    with pytest.raises(BadInput, match="line to line"):
        transpose_toggles(many, 5000, 5000)
