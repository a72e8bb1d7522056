"""Kinds: what was drawn becomes what a model should find; labels of all targets of a config."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.errors import BadInput, BadLabelConfig
from ml_backend.kinds.base import LabelledMask
from ml_backend.kinds.registry import KINDS, get_kind
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.rle import decode_rle, encode_mask, rle_box
from ml_backend.masks.shapes import box_rle, union_rle, whole_rle


def mask_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((12, 20), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


DRAWN: list[LabelledMask] = [
    ("cat", encode_mask(mask_of((1, 1, 4, 5), (4, 4, 6, 6)))),
    ("dog", encode_mask(mask_of((10, 2, 15, 9)))),
    ("cat", encode_mask(mask_of((3, 3, 8, 8)))),
]


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(*[st.floats(-3, 12) for _ in range(2)], *[st.floats(0, 12) for _ in range(2)]),
)
def test_a_box_covers_its_rounded_corners_inside_the_picture(
    hw: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    x0, y0, w, h = box
    mask = decode_rle(box_rle((x0, y0, x0 + w, y0 + h), hw))
    rows, columns = np.nonzero(mask)
    assert mask.shape == hw
    assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    assert columns.min() == min(max(round(x0), 0), hw[1] - 1)
    assert rows.max() + 1 == min(max(round(y0 + h), rows.min() + 1), hw[0])


def test_shapes() -> None:
    assert decode_rle(whole_rle((3, 5))).all()
    both = decode_rle(union_rle([rle for _, rle in DRAWN]))
    assert (both == np.logical_or.reduce([decode_rle(rle) for _, rle in DRAWN])).all()
    with pytest.raises(ValueError, match="at least one"):
        union_rle([])


def test_drawn_masks_become_what_each_kind_wants() -> None:
    assert get_kind("instances").to_instances(DRAWN) == DRAWN
    boxes = get_kind("boxes").to_instances(DRAWN)
    assert [label for label, _ in boxes] == ["cat", "dog", "cat"]
    assert [rle_box(rle) for _, rle in boxes] == [rle_box(rle) for _, rle in DRAWN]
    assert decode_rle(boxes[0][1]).sum() == 5 * 5
    unions = dict(get_kind("segmentation").to_instances(DRAWN))
    assert list(unions) == ["cat", "dog"]
    assert (decode_rle(unions["cat"]) == (decode_rle(DRAWN[0][1]) | decode_rle(DRAWN[2][1]))).all()
    parts = get_kind("components").to_instances(
        [*DRAWN, ("dog", encode_mask(mask_of((0, 0, 5, 4), (18, 9, 20, 12))))]
    )
    assert [label for label, _ in parts] == [
        "cat",
        "dog",
        "dog",
    ]  # the speck in the corner is nobody's object
    assert [int(decode_rle(rle).sum()) for _, rle in parts[1:]] == [35, 20]
    with pytest.raises(BadInput, match="no kind 'videos'"):
        get_kind("videos")


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_made_for_a_kind_is_of_that_kind(kind: str) -> None:
    config = parse_label_config(build_label_config(["cat", "dog"], kind=kind))  # type: ignore[arg-type]
    assert [target.kind for target in config.targets] == [kind]
    assert config.labels == ("cat", "dog")
    assert config.kind_of("dog") is get_kind(kind)
    assert config.wanted[0].exclusive == (kind == "classes")


def test_several_classes_of_a_picture_do_not_exclude_each_other() -> None:
    config = parse_label_config(build_label_config(["wet", "cold"], kind="classes", multiple=True))
    assert not config.wanted[0].exclusive


SEVERAL = """<View>
<Choices name="quality" toName="image" choice="single"><Choice value="good"/><Choice value="Car"/></Choices>
<RectangleLabels name="box" toName="image" smart="false"><Label value="Car"/><Label value="Bus"/>
</RectangleLabels>
<BrushLabels name="mask" toName="image" smart="false"><Label value="Road"/><Label value="Car"/></BrushLabels>
<Choices name="each" toName="image" perRegion="true"><Choice value="old"/></Choices>
<Image name="image" value="$image"/></View>"""


def test_every_tag_of_a_config_is_a_target_and_labels_have_one_name_each() -> None:
    config = parse_label_config(SEVERAL)
    assert [(target.kind, target.labels) for target in config.targets] == [
        ("instances", ("Road", "Car")),
        ("boxes", ("Bus",)),
        ("classes", ("good", "quality: Car")),
    ]
    assert config.kind == "instances"
    assert config.labels == ("Road", "Car", "Bus", "good", "quality: Car")
    assert config.output_for("quality: Car").name == "quality"
    assert config.output_for("Bus").name == "box"
    assert config.target_of("quality: Car").value("quality: Car") == "Car"
    assert config.target_of("good").label_of("Car") == "quality: Car"


def test_a_weak_config_whose_choices_nobody_can_draw_is_refused() -> None:
    xml = SEVERAL.replace("<View>", '<View className="groundswell-weak">', 1)
    with pytest.raises(BadLabelConfig, match="the tag 'good' is no label of the mask tag"):
        parse_label_config(xml)


def test_choices_that_look_like_renamed_ones_stay_apart() -> None:
    xml = SEVERAL.replace('<Choice value="good"/>', '<Choice value="quality: Car"/>', 1)
    config = parse_label_config(xml)
    assert len(set(config.labels)) == len(config.labels) == 5
    target = config.targets[2]
    assert {target.value(label) for label in target.labels} == {"quality: Car", "Car"}
