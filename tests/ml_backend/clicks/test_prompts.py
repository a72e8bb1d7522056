"""Contexts as the editor sends them, and everything that can be wrong with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ml_backend.clicks.serving.prompts import parse_context, to_prompt
from ml_backend.errors import BadPrompt


def point(x: float, y: float, positive: bool = True, label: str = "Cat") -> dict[str, Any]:
    return {
        "original_width": 1024,
        "original_height": 768,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.26, "labels": [label], "keypointlabels": [label]},
        "is_positive": positive,
        "id": "hv7Y4k55qB",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }


def rectangle(x: float, y: float, w: float, h: float, rotation: float = 0) -> dict[str, Any]:
    return {
        "original_width": 1024,
        "original_height": 768,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": w, "height": h, "rotation": rotation, "rectanglelabels": ["Cat"]},
        "id": "siHVh8Xgez",
        "from_name": "rect",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    }


def test_points_in_click_order() -> None:
    context = parse_context({"result": [point(30, 40), point(50, 60), point(10, 20, False)]}, labels=["Cat"])
    prompt = to_prompt(context, (768, 1024))
    assert prompt.label == "Cat"
    assert prompt.box is None
    assert [p[2] for p in prompt.points] == [True, True, False]
    assert prompt.points[0][:2] == pytest.approx((307.2, 307.2))


def test_box_then_points_and_newest_box_counts() -> None:
    context = parse_context(
        {"result": [rectangle(1, 1, 5, 5), rectangle(60, 10, 15, 20), point(65, 15, False)]}
    )
    prompt = to_prompt(context, (768, 1024))
    assert prompt.box == pytest.approx((614.4, 76.8, 768.0, 230.4))
    assert len(prompt.points) == 1


def test_box_is_clipped_to_the_image() -> None:
    prompt = to_prompt(parse_context({"result": [rectangle(-10, -10, 200, 200)]}), (10, 20))
    assert prompt.box == (0.0, 0.0, 20.0, 10.0)


def test_rotated_box_becomes_its_upright_hull_in_pixels() -> None:
    # 100 × 20 px with its top left corner at (100, 20), turned by 90° clockwise about that corner.
    prompt = to_prompt(parse_context({"result": [rectangle(50, 10, 50, 10, 90)]}), (200, 200))
    assert prompt.box == pytest.approx((80.0, 20.0, 100.0, 120.0))


def test_far_edge_stays_inside() -> None:
    prompt = to_prompt(parse_context({"result": [point(100, 100)]}), (4, 6))
    assert prompt.points[0][:2] == (5.5, 3.5)


def test_drafts_and_other_regions_are_never_read() -> None:
    class Explosive(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            assert key == "result", f"read {key}"
            return super().get(key, default)

    context = Explosive(result=[point(1, 2)], drafts=[{"result": "x" * 1000}], annotations=[{}])
    assert len(parse_context(context).points) == 1


def _changed(path: str, value: object) -> dict[str, Any]:
    item = copy.deepcopy(point(30, 40))
    target: dict[str, Any] = item
    *parents, last = path.split(".")
    for name in parents:
        target = target[name]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return {"result": [point(1, 1), item]}


@pytest.mark.parametrize(
    ("context", "field", "words"),
    [
        (None, "context", "object"),
        ({}, "context.result", "no clicks"),
        ({"result": []}, "context.result", "no clicks"),
        ({"result": "abc"}, "context.result", "no clicks"),
        ({"result": [3]}, "context.result[0]", "object"),
        ({"result": [{"type": "keypointlabels"}]}, "context.result[0].value", "object"),
        (_changed("value.x", 100.5), "context.result[1].value.x", "outside"),
        (_changed("value.y", -0.1), "context.result[1].value.y", "outside"),
        (_changed("value.y", float("nan")), "context.result[1].value.y", "number"),
        (_changed("value.y", 10**400), "context.result[1].value.y", "number"),
        (_changed("image_rotation", 10**400), "context.result[1].image_rotation", "number"),
        (_changed("value.y", "7"), "context.result[1].value.y", "number"),
        (_changed("value.x", KeyError), "context.result[1].value.x", "number"),
        (_changed("type", "brushlabels"), "context.result[1].type", "cannot be a prompt"),
        (_changed("image_rotation", 90), "context.result[1].image_rotation", "rotated"),
        (_changed("is_positive", "no"), "context.result[1].is_positive", "true or false"),
        (
            _changed("value.keypointlabels", ["Dog"]),
            "context.result[1].value.keypointlabels",
            "unknown label",
        ),
        (_changed("value", {"x": 1, "y": 1}), "context.result[1].value.keypointlabels", "no label"),
        ({"result": [rectangle(5, 5, 0, 3)]}, "context.result[0].value.width", "no area"),
        ({"result": [rectangle(5, 5, 3, -1)]}, "context.result[0].value.height", "no area"),
        ({"result": [rectangle(100, 5, 3, 3)]}, "context.result[0].value", "outside"),
    ],
)
def test_bad_contexts_name_the_field(context: object, field: str, words: str) -> None:
    with pytest.raises(BadPrompt) as caught:
        parse_context(context, labels=["Cat"])
    assert caught.value.field == field
    assert words in caught.value.message


def test_two_labels_in_one_request() -> None:
    with pytest.raises(BadPrompt, match="'Cat' and 'Dog'"):
        parse_context({"result": [point(1, 1), point(2, 2, label="Dog")]}, labels=["Cat", "Dog"])


def test_box_under_a_pixel_is_found_once_the_size_is_known() -> None:
    context = parse_context({"result": [rectangle(5, 5, 0.5, 0.5)]})
    assert to_prompt(context, (1000, 1000)).box is not None
    with pytest.raises(BadPrompt, match="less than one pixel"):
        to_prompt(context, (100, 100))


def in_a_row(item: dict[str, Any], identity: str, label: str = "Cat") -> list[dict[str, Any]]:
    """A prompt as the editor sends it where labels stand in a row of their own: two results of one id."""
    value = {k: v for k, v in item["value"].items() if not k.endswith("labels")}
    given = {"labels": [label] if label else []}
    kind = item["type"].removesuffix("labels")
    seen = given if kind == "keypoint" else {}
    both = [{**item, "id": identity, "type": kind, "value": {**value, **seen}}]
    if label:
        both.append(
            {**item, "id": identity, "type": "labels", "from_name": "label"} | {"value": value | given}
        )
    return both


def test_points_and_boxes_whose_label_stands_in_a_row_of_its_own() -> None:
    points = [*in_a_row(point(30, 40), "a"), *in_a_row(point(50, 60, False), "b")]
    context = parse_context({"result": points}, labels=["Cat"])
    assert context.points == ((30, 40, True), (50, 60, False))
    assert (context.label, context.from_name) == ("Cat", "kp")
    context = parse_context({"result": in_a_row(rectangle(10, 10, 5, 5), "c")}, labels=["Cat"])
    assert context.box == (10, 10, 5, 5, 0)
    assert (context.label, context.from_name) == ("Cat", "rect")


def test_a_click_without_a_label_leaves_it_open() -> None:
    context = parse_context({"result": in_a_row(point(30, 40), "a", label="")}, labels=["Cat"])
    assert context.label == ""
    context = parse_context({"result": in_a_row(rectangle(10, 10, 5, 5), "a", label="")}, labels=["Cat"])
    assert context.label == ""


def test_points_that_came_back_with_a_draft_are_left_out() -> None:
    old = {k: v for k, v in point(90, 90).items() if k != "is_positive"}
    context = parse_context({"result": [old, point(30, 40), old]})
    assert context.points == ((30, 40, True),)
    with pytest.raises(BadPrompt, match="2 points of an earlier visit"):
        parse_context({"result": [old, old]})
