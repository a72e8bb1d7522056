"""One row of labels for all tools: a region is two results of one id, a shape and its label."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface

from ml_backend.errors import BadRegion
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region, provenance_meta
from ml_backend.masks.rle import encode_mask, rle_box
from sync.rounds.region_rows import region_rows

HW = (30, 40)
MASK = np.zeros(HW, np.bool_)
MASK[5:15, 5:25] = True
RLE = encode_mask(MASK)
OUTPUTS = ("brush", "bitmask", "polygon")


def row_config(labels: tuple[str, ...] = ("Cat", "Dog"), **options: Any) -> LabelConfig:
    return parse_label_config(build_label_config(labels, one_row=True, **options))


def region(label: str = "Cat", **fields: Any) -> Region:
    return Region(f"r-{label}", "mask", label, RLE, rle_box(RLE), 0.9, **fields)


@pytest.mark.parametrize(
    ("output", "kind"),
    [*itertools.product(OUTPUTS, ["instances", "segmentation", "components", "weak"]), ("brush", "boxes")],
)
def test_what_is_written_is_valid_and_read_back(output: str, kind: str) -> None:
    xml = build_label_config(["Cat", "Dog"], output=output, kind=kind, why=True, one_row=True)  # type: ignore[arg-type]
    config = parse_label_config(xml)
    assert (config.kind, config.labels) == (kind, ("Cat", "Dog"))
    assert [tag.name for tag in config.prompts] == ["click", "frame"]
    interface = LabelInterface(xml)
    interface.validate()
    meta = provenance_meta("accepted", key="k")
    result = to_result([region("Cat", meta=meta), region("Dog")], config, HW)
    assert len(result) == 4
    assert not interface.validate_prediction({"result": result, "score": 0.5}, return_errors=True)
    assert validate_result(result, config, 0.5, deep=True) == []
    parsed = parse_annotation(result, config, HW)
    assert [r.label for r in parsed.regions] == ["Cat", "Dog"]
    assert not any(dropped.broken or dropped.foreign for dropped in parsed.dropped)
    assert parsed.regions[0].provenance == {"key": "k"}
    assert parsed.regions[0].score == 0.9
    if kind != "boxes":
        assert all(r.rle == RLE for r in parsed.regions)


def test_a_shape_with_its_label_in_it_is_read_too() -> None:
    before = parse_label_config(build_label_config(("Cat", "Dog")))
    result = to_result([region("Dog")], before, HW)
    assert [item["type"] for item in result] == ["brushlabels"]
    parsed = parse_annotation(result, row_config())
    assert [(one.id, one.label) for one in parsed.regions] == [("r-Dog", "Dog")]
    assert parsed.dropped == ()


def test_shapes_of_another_type_do_not_pass_for_an_empty_picture() -> None:
    item: dict[str, Any] = {"id": "r", "from_name": "mask", "to_name": "image", "type": "polygonlabels"}
    value = {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["Dog"]}
    item |= {"original_width": 9, "original_height": 8, "value": value}
    with pytest.raises(BadRegion, match="does not belong to tag"):
        region_rows(row_config(), [item])


def test_both_forms_want_the_same() -> None:
    row, tools = row_config(), parse_label_config(build_label_config(["Cat", "Dog"]))
    assert (row.kind, row.labels, row.image_key) == (tools.kind, tools.labels, tools.image_key)
    assert row.wanted == tools.wanted
    assert row.digest != tools.digest


def test_the_editor_repeats_the_shape_beside_the_label() -> None:
    config = row_config()
    shape, label = to_result([region("Dog")], config, HW)
    label["value"] = {**shape["value"], "labels": ["Dog"]}
    for result in ([shape, label], [label, shape]):
        assert [r.label for r in parse_annotation(result, config, HW).regions] == ["Dog"]


def test_a_shape_without_a_label_is_told_unless_there_is_one_label() -> None:
    shape, _ = to_result([region()], row_config(), HW)
    (dropped,) = parse_annotation([shape], row_config(), HW).dropped
    assert dropped.broken
    assert "no label" in dropped.reason
    (found,) = parse_annotation([shape], row_config(("Cat",)), HW).regions
    assert found.label == "Cat"


def test_shapes_without_a_row_of_labels_are_no_output() -> None:
    xml = (
        '<View><Brush name="m" toName="i"/><BrushLabels name="b" toName="i"><Label value="x"/></BrushLabels>'
        '<Image name="i" value="$i"/></View>'
    )
    config = parse_label_config(xml)
    assert [tag.name for tag in config.controls] == ["b"]


def test_the_first_row_of_an_image_says_the_class() -> None:
    xml = (
        '<View><Labels name="class" toName="i"><Label value="Cat"/></Labels>'
        '<Labels name="size" toName="i"><Label value="big"/></Labels>'
        '<Brush name="m" toName="i" smart="false"/><Image name="i" value="$i"/></View>'
    )
    config = parse_label_config(xml)
    assert config.labels == ("Cat",)
    shape, label = to_result([region()], config, HW)
    size = {**label, "from_name": "size", "value": {**label["value"], "labels": ["big"]}}
    parsed = parse_annotation([shape, size, label], config, HW)
    assert [r.label for r in parsed.regions] == ["Cat"]
