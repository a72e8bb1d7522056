"""Label Studio results to regions and back: round trips, leftovers, broken values, validation."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from ml_backend.errors import BadLabelConfig, BadRegion
from ml_backend.instances import Instances
from ml_backend.label_studio.codecs.brush import encode_brush
from ml_backend.label_studio.config_builder import build_label_config, build_review_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.label_studio.region_writer import render, to_result
from ml_backend.label_studio.regions import provenance_meta, region_id
from ml_backend.masks.rle import decode_rle, encode_mask, rle_box, rle_iou

HW = (60, 80)
CONFIGS = {
    name: parse_label_config(build_label_config(["cat", "dog"], output=name))  # type: ignore[arg-type]
    for name in ("bitmask", "brush", "polygon")
}
CONFIGS["rectangle"] = parse_label_config(build_label_config(["cat", "dog"], kind="boxes"))


def ellipse(
    hw: tuple[int, int] = HW, axes: tuple[int, int] = (20, 12)
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    canvas = np.zeros(hw, np.uint8)
    cv2.ellipse(canvas, (hw[1] // 2, hw[0] // 2), axes, 25, 0, 360, 1, -1)
    return canvas > 0


def instances(*masks: np.ndarray[Any, np.dtype[np.bool_]]) -> Instances:
    rles = [encode_mask(m) for m in masks]
    n = len(masks)
    return Instances(
        np.arange(n) % 2,
        np.array([rle_box(r) for r in rles], np.float32).reshape(-1, 4),
        rles,
        np.linspace(0.5, 1, n).astype(np.float32),
        np.ones(n, np.float32),
        np.zeros((n, 0), np.float32),
    )


@pytest.mark.parametrize("name", ["bitmask", "brush"])
@given(mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30)))
@settings(max_examples=60, deadline=None)
def test_pixel_exact_round_trip(name: str, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    mask = mask.copy()
    mask[0, 0] = True  # a region covers at least one pixel
    config, hw = CONFIGS[name], mask.shape
    drawn = render(instances(mask, mask), config, hw)
    assert drawn.iou == [1.0, 1.0]
    assert validate_result(drawn.result, config) == []
    back = parse_annotation(drawn.result, config, hw)
    assert back.dropped == ()
    assert [r.label for r in back.regions] == ["cat", "dog"]
    for region in back.regions:
        np.testing.assert_array_equal(decode_rle(region.rle), mask)
        assert region.box_xyxy == rle_box(encode_mask(mask))
    assert back.regions[1].score == 1.0
    again = to_result(back.regions, config, hw)
    assert again == drawn.result


@pytest.mark.parametrize("tolerance", [0.0, 0.5, 1.0, 3.0])
def test_polygons_state_their_loss(tolerance: float) -> None:
    mask = ellipse((300, 400), (120, 70))
    config = CONFIGS["polygon"]
    drawn = render(instances(mask), config, (300, 400), tolerance_px=tolerance)
    (region,) = parse_annotation(drawn.result, config).regions
    assert rle_iou([region.rle], [encode_mask(mask)])[0, 0] == pytest.approx(drawn.iou[0], abs=1e-3)
    assert drawn.iou[0] > {0.0: 0.995, 0.5: 0.99, 1.0: 0.985, 3.0: 0.95}[tolerance]
    if tolerance == 3.0:
        assert len(drawn.result[0]["value"]["points"]) < 25


def test_polygon_of_parts_and_holes_says_what_is_lost() -> None:
    mask = np.zeros(HW, bool)
    mask[10:40, 10:40] = True
    mask[20:30, 20:30] = False
    mask[50:58, 60:78] = True
    iou = render(instances(mask), CONFIGS["polygon"], HW, tolerance_px=0.5).iou[0]
    assert iou == pytest.approx(800 / 1044, abs=0.02)


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_a_thin_diagonal_keeps_its_shape_as_a_polygon(thickness: int) -> None:
    canvas = np.zeros(HW, np.uint8)
    cv2.line(canvas, (3, 4), (75, 50), 1, thickness)
    found = instances(canvas > 0)
    rendered = render(found, CONFIGS["polygon"], HW)
    assert rendered.iou[0] >= 0.95
    assert "meta" not in rendered.result[0]
    (region,) = parse_annotation(rendered.result, CONFIGS["polygon"], HW).regions
    assert rle_iou([region.rle], found.rle)[0, 0] >= 0.95


def test_a_polygon_that_cannot_show_its_mask_says_so() -> None:
    ring = np.zeros(HW, np.uint8)
    cv2.circle(ring, (40, 30), 20, 1, 1)
    meta = [provenance_meta("found by model r1", key="k")]
    rendered = render(instances(ring > 0), CONFIGS["polygon"], HW, meta=meta)
    assert rendered.iou[0] < 0.2
    found = rendered.result[0]["meta"]
    assert found["text"][0] == "found by model r1"
    assert "not the whole mask" in found["text"][1]
    assert found["groundswell"] == {"key": "k"}
    assert meta == [provenance_meta("found by model r1", key="k")]
    assert len(rendered.result[0]["value"]["points"]) < 120


@pytest.mark.parametrize("corner", [(0, 0), (59, 79)])
def test_polygon_of_one_pixel_and_of_a_line(corner: tuple[int, int]) -> None:
    for size in ((1, 1), (1, 9), (7, 1)):
        mask = np.zeros(HW, bool)
        y, x = min(corner[0], HW[0] - size[0]), min(corner[1], HW[1] - size[1])
        mask[y : y + size[0], x : x + size[1]] = True
        drawn = render(instances(mask), CONFIGS["polygon"], HW)
        (region,) = parse_annotation(drawn.result, CONFIGS["polygon"]).regions
        assert rle_iou([region.rle], [encode_mask(mask)])[0, 0] > 0.45


@given(x0=st.integers(0, 70), y0=st.integers(0, 50), w=st.integers(1, 9), h=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_rectangles_round_trip(x0: int, y0: int, w: int, h: int) -> None:
    mask = np.zeros(HW, bool)
    mask[y0 : y0 + h, x0 : x0 + w] = True
    drawn = render(instances(mask), CONFIGS["rectangle"], HW)
    assert drawn.iou == [1.0]
    (region,) = parse_annotation(drawn.result, CONFIGS["rectangle"], HW).regions
    assert region.kind == "box"
    np.testing.assert_array_equal(decode_rle(region.rle), mask)


def test_rotated_rectangle_turns_clockwise_about_its_top_left_corner() -> None:
    hw = (100, 100)
    item = {
        "id": "r", "type": "rectanglelabels", "from_name": "box", "to_name": "image",
        "original_width": 100, "original_height": 100,
        "value": {"x": 50, "y": 20, "width": 30, "height": 10, "rotation": 90, "rectanglelabels": ["cat"]},
    }  # fmt: skip
    (region,) = parse_annotation([item], CONFIGS["rectangle"], hw).regions
    # along points down now, across points left
    assert region.box_xyxy == (40.0, 20.0, 50.0, 50.0)


def test_a_region_that_leaves_the_image_is_cut() -> None:
    item = {
        "id": "r", "type": "rectanglelabels", "from_name": "box", "to_name": "image",
        "original_width": 100, "original_height": 100,
        "value": {"x": -20, "y": -10, "width": 30, "height": 30, "rectanglelabels": ["cat"]},
    }  # fmt: skip
    (region,) = parse_annotation([item], CONFIGS["rectangle"], (100, 100)).regions
    assert region.box_xyxy == (0.0, 0.0, 10.0, 20.0)


def brush_item(**changes: Any) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": "a", "type": "brushlabels", "from_name": "mask", "to_name": "image", "origin": "manual",
        "original_width": HW[1], "original_height": HW[0], "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(ellipse()), "brushlabels": ["cat"]},
    }  # fmt: skip
    return item | changes


def test_leftovers_of_smart_prompts_are_left_out() -> None:
    config = CONFIGS["brush"]
    base = {"to_name": "image", "original_width": HW[1], "original_height": HW[0]}
    result = [
        brush_item(),
        # accepting while a label is selected leaves a second item with the region's id under the prompt tag
        {**base, "id": "a", "type": "keypointlabels", "from_name": "click",
         "value": {"format": "rle", "rle": encode_brush(ellipse()), "keypointlabels": ["cat"]}},
        {**base, "id": "k", "type": "keypointlabels", "from_name": "click", "is_positive": True,
         "value": {"x": 1, "y": 2, "width": 0.3, "keypointlabels": ["cat"]}},
        {**base, "id": "f", "type": "rectanglelabels", "from_name": "frame",
         "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["cat"]}},
        {**base, "id": "m", "type": "keypointlabels", "from_name": "mask", "value": {}},
        {**base, "id": "o", "type": "brushlabels", "from_name": "gone", "value": {}},
        {"type": "relation", "from_id": "a", "to_id": "k"},
    ]  # fmt: skip
    parsed = parse_annotation(result, config, HW)
    assert [r.id for r in parsed.regions] == ["a"]
    assert [d.index for d in parsed.dropped] == [1, 2, 3, 4, 5, 6]
    assert not any(d.broken for d in parsed.dropped)
    assert parsed.regions[0].origin == "manual"


BAD_PNG = "data:image/png;base64," + base64.b64encode(b"not a png").decode()


def png(mode: str, size: tuple[int, int]) -> str:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("brush", {"format": "rle", "rle": [1, 2, 3], "brushlabels": ["cat"]}, "too short"),
        ("brush", {"format": "png", "rle": [], "brushlabels": ["cat"]}, "format 'png'"),
        ("brush", {"format": "rle", "brushlabels": ["cat"]}, "no rle list"),
        ("brush", {"format": "rle", "rle": encode_brush(ellipse()), "brushlabels": ["cow"]}, "'cow'"),
        ("brush", {"format": "rle", "rle": encode_brush(ellipse())}, "no label"),
        (
            "brush",
            {"format": "rle", "rle": encode_brush(np.zeros(HW, bool)), "brushlabels": ["cat"]},
            "no pixel",
        ),
        ("brush", None, "no value"),
        ("bitmask", {"imageDataURL": BAD_PNG, "bitmasklabels": ["cat"]}, "cannot be read"),
        ("bitmask", {"imageDataURL": "http://x/y.png", "bitmasklabels": ["cat"]}, "data URL"),
        ("bitmask", {"bitmasklabels": ["cat"]}, "data URL"),
        ("bitmask", {"imageDataURL": png("RGBA", (9, 9)), "bitmasklabels": ["cat"]}, "9×9"),
        ("bitmask", {"imageDataURL": png("L", (HW[1], HW[0])), "bitmasklabels": ["cat"]}, "transparency"),
        ("polygon", {"points": [[1, 2], [3, 4]], "polygonlabels": ["cat"]}, "three"),
        ("polygon", {"points": "abc", "polygonlabels": ["cat"]}, "unreadable"),
        ("polygon", {"points": [[1, 2], [3, float("nan")], [5, 6]], "polygonlabels": ["cat"]}, "finite"),
        ("polygon", {"points": [[1, 2], [3, 10**400], [5, 6]], "polygonlabels": ["cat"]}, "unreadable"),
        ("rectangle", {"x": 10**400, "y": 1, "width": 2, "height": 2, "rectanglelabels": ["cat"]}, "number"),
        ("polygon", {"points": [[200, 200], [220, 200], [220, 220]], "polygonlabels": ["cat"]}, "no pixel"),
        ("rectangle", {"x": "1", "y": 1, "width": 2, "height": 2, "rectanglelabels": ["cat"]}, "number"),
        ("rectangle", {"x": 1, "y": 1, "width": 0, "height": 2, "rectanglelabels": ["cat"]}, "no pixel"),
        ("rectangle", {"x": 1, "y": 1, "width": 1e300, "height": 2, "rectanglelabels": ["cat"]}, ""),
    ],
)
def test_one_broken_region_is_named_and_harms_no_other(name: str, value: Any, words: str) -> None:
    config = CONFIGS[name]
    (good,) = to_result(instances(ellipse()), config, HW)
    parsed = parse_annotation([good | {"id": "bad", "value": value}, good], config, HW)
    if words:
        (dropped,) = parsed.dropped
        assert dropped.broken
        assert words in dropped.reason
        assert [r.id for r in parsed.regions] == [good["id"]]
        assert validate_result([good | {"id": "bad", "value": value}], config, deep=True)
        shallow = validate_result([good | {"id": "bad", "value": value}], config)
        needs_pixels = words == "transparency" or (words == "no pixel" and name != "rectangle")
        assert bool(shallow) == (not needs_pixels)
    else:
        assert parsed.regions[-1].id == good["id"]


def test_sizes_are_compared_with_the_image() -> None:
    parsed = parse_annotation([brush_item()], CONFIGS["brush"], (61, 80))
    assert "was replaced" in parsed.dropped[0].reason
    free = brush_item()
    del free["original_width"]
    assert len(parse_annotation([free], CONFIGS["brush"], HW).regions) == 1
    assert "missing" in parse_annotation([free], CONFIGS["brush"]).dropped[0].reason
    assert parse_annotation([brush_item()], CONFIGS["brush"]).hw == HW


@pytest.mark.parametrize("result", ["text", None, {"a": 1}, [1], ["x"]])
def test_what_is_no_result_list_is_refused(result: Any) -> None:
    with pytest.raises(BadRegion):
        parse_annotation(result, CONFIGS["brush"])


def test_choices_are_read() -> None:
    config = parse_label_config(build_review_config())
    item = {
        "id": "c",
        "type": "choices",
        "from_name": "verdict",
        "to_name": "image",
        "value": {"choices": ["yes"]},
    }
    assert parse_annotation([item], config).choices == {"verdict": ("yes",)}
    assert validate_result([item], config) == []
    assert validate_result([item | {"value": {"choices": ["perhaps"]}}], config)
    assert parse_annotation([], config).choices == {}


def test_ids_follow_from_keys_and_meta_is_kept() -> None:
    config = CONFIGS["brush"]
    meta = provenance_meta("cluster 7, purity 0.97 (0.93 to 0.99)", key="t1-00ff00ff", cluster=7, purity=0.97)
    first = to_result(instances(ellipse()), config, HW, keys=["t1-00ff00ff"], meta=[meta])
    second = to_result(instances(ellipse()), config, HW, keys=["t1-00ff00ff"], meta=[meta])
    assert first == second
    assert first[0]["id"] == region_id("t1-00ff00ff")
    assert len(first[0]["id"]) == 10
    (region,) = parse_annotation(first, config).regions
    assert region.provenance["cluster"] == 7
    assert region.meta["text"] == ["cluster 7, purity 0.97 (0.93 to 0.99)"]
    with pytest.raises(ValueError, match="keys has 2"):
        to_result(instances(ellipse()), config, HW, keys=["a", "b"])


@pytest.mark.parametrize("name", ["brush", "bitmask", "polygon", "rectangle"])
def test_label_studios_own_check_agrees(name: str) -> None:
    config = CONFIGS[name]
    interface = LabelInterface(config.xml)
    result = to_result(instances(ellipse(), ellipse(axes=(9, 9))), config, HW)
    assert validate_result(result, config, score=0.5) == []
    assert interface.validate_prediction({"result": result, "score": 0.5}, return_errors=True) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"from_name": "nobody"}, "from_name"),
        ({"type": "polygonlabels"}, "type"),
        ({"to_name": "other"}, "to_name"),
        ({"score": 1.5}, "score"),
        ({"id": ""}, "missing"),
        ({"original_width": None}, "original_width"),
        ({"original_width": 81}, "needs"),
        ({"value": {"format": "rle", "rle": encode_brush(ellipse()), "brushlabels": ["cow"]}}, "cow"),
    ],
)
def test_validation_finds_what_label_studio_drops_or_hides(change: dict[str, Any], words: str) -> None:
    problems = validate_result([brush_item(**change)], CONFIGS["brush"])
    assert any(words in p for p in problems), problems


def test_validation_of_scores_ids_and_boxes() -> None:
    assert "score" in validate_result([], CONFIGS["brush"], score=1.2)[0]
    assert "twice" in validate_result([brush_item(), brush_item()], CONFIGS["brush"])[0]
    (box,) = to_result(instances(ellipse()), CONFIGS["rectangle"], HW)
    box["value"]["width"] = 95
    assert "leaves the image" in validate_result([box], CONFIGS["rectangle"])[0]


def test_writing_checks_labels_and_sizes() -> None:
    with pytest.raises(BadLabelConfig, match="'cow'"):
        to_result(instances(ellipse()), CONFIGS["brush"], HW, labels=["cow"])
    with pytest.raises(BadRegion, match="size"):
        to_result(instances(ellipse()), CONFIGS["brush"], (61, 80))
    with pytest.raises(BadRegion, match="keypointlabels"):
        to_result(instances(ellipse()), CONFIGS["brush"], HW, output=CONFIGS["brush"].prompts[0])


def _png_chunks(hw: tuple[int, int], *chunks: tuple[bytes, bytes]) -> str:
    """Data URL of a PNG put together by hand."""
    head = struct.pack(">IIBBBBB", hw[1], hw[0], 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), *chunks):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _bitmask_item(url: str, hw: tuple[int, int]) -> dict[str, Any]:
    (item,) = to_result(instances(np.ones(HW, bool)), CONFIGS["bitmask"], HW)
    value = {**item["value"], "imageDataURL": url}
    return {**item, "original_height": hw[0], "original_width": hw[1], "value": value}


ROWS = zlib.compress(bytes(HW[0] * (1 + 4 * HW[1])))
HOSTILE_PNGS = {
    "200 thousand pixels a side": ((200_000, 200_000), ((b"IDAT", ROWS), (b"IEND", b""))),
    "larger than Pillow decodes": ((20_000, 20_000), ((b"IDAT", ROWS), (b"IEND", b""))),
    "a text chunk that unpacks to 200 MB": (
        HW,
        ((b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000))), (b"IDAT", ROWS), (b"IEND", b"")),
    ),
    "a colour profile that unpacks to 200 MB": (
        HW,
        ((b"iCCP", b"icc\0\0" + zlib.compress(bytes(200_000_000))), (b"IDAT", ROWS), (b"IEND", b"")),
    ),
    "rows cut off": (HW, ((b"IDAT", ROWS[:20]), (b"IEND", b""))),
    "no rows": (HW, ((b"IEND", b""),)),
    "no end": (HW, ((b"IDAT", ROWS[:30]),)),
    "a chunk without a name": (HW, ((b"\0\0\0\0", b"x"), (b"IDAT", ROWS), (b"IEND", b""))),
}


@pytest.mark.parametrize(("hw", "chunks"), HOSTILE_PNGS.values(), ids=HOSTILE_PNGS)
def test_a_hostile_png_breaks_its_region_only(
    hw: tuple[int, int], chunks: tuple[tuple[bytes, bytes], ...]
) -> None:
    bad = _bitmask_item(_png_chunks(hw, *chunks), hw)
    good = to_result(instances(np.ones(HW, bool)), CONFIGS["bitmask"], HW)
    parsed = parse_annotation([bad, *good], CONFIGS["bitmask"])
    assert len(parsed.regions) == 1
    assert [d.broken for d in parsed.dropped] == [True]
    assert ("original_width" if hw[0] > 50_000 else "imageDataURL") in parsed.dropped[0].reason


@given(st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_png_is_read_or_breaks_its_region_only(place: int, byte: int) -> None:
    mask = ellipse()
    (item,) = to_result(instances(mask), CONFIGS["bitmask"], HW)
    data = bytearray(base64.b64decode(item["value"]["imageDataURL"].partition(",")[2]))
    data[place % len(data)] = byte
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    parsed = parse_annotation([_bitmask_item(url, HW)], CONFIGS["bitmask"])
    assert len(parsed.regions) + sum(d.broken for d in parsed.dropped) == 1


@pytest.mark.parametrize("name", ["brush", "polygon", "rectangle"])
def test_sizes_beyond_any_image_break_their_region_only(name: str) -> None:
    (good,) = to_result(instances(ellipse()), CONFIGS[name], HW)
    bad = {**good, "id": "bad", "original_width": 200_000, "original_height": 200_000}
    parsed = parse_annotation([bad, good], CONFIGS[name])
    assert len(parsed.regions) == 1
    assert [d.broken for d in parsed.dropped] == [True]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 10**400, "0.5", True])
def test_a_score_that_is_no_number_is_none(score: Any) -> None:
    (item,) = to_result(instances(ellipse()), CONFIGS["brush"], HW)
    (region,) = parse_annotation([item | {"score": score}], CONFIGS["brush"]).regions
    assert region.score is None
    assert validate_result([item | {"score": 10**400}], CONFIGS["brush"], deep=True)


def test_a_long_stroke_list_costs_no_more_than_its_image_could() -> None:
    (item,) = to_result(instances(ellipse()), CONFIGS["brush"], HW)
    item["value"]["rle"] = [*item["value"]["rle"], *[255] * 1_000_000]
    tracemalloc.start()
    try:
        (region,) = parse_annotation([item], CONFIGS["brush"]).regions
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(decode_rle(region.rle), ellipse())
    assert peak < 50_000_000
