"""Label configs: what is read from them, what is written, and what their errors say."""

from __future__ import annotations

import itertools

import pytest
from label_studio_sdk.label_interface import LabelInterface

from ml_backend.errors import BadLabelConfig
from ml_backend.label_studio import label_config
from ml_backend.label_studio.config_builder import build_label_config, build_review_config, build_sheet_config
from ml_backend.label_studio.label_config import VERDICTS, parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.label_studio.why_line import why_items

FACTS_EXAMPLE = """<View>
<KeyPointLabels name="kp" toName="image" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true" smartOnly="true">
<Label value="Cat"/></RectangleLabels>
<BrushLabels name="brush" toName="image" smart="false"><Label value="Cat"/></BrushLabels>
<Image name="image" value="$image" brightnessControl="true" contrastControl="true"/></View>"""
IMAGE = '<Image name="i" value="$image"/>'


def brush(inner: str = '<Label value="x"/>', to: str = "i") -> str:
    return f'<BrushLabels name="b" toName="{to}">{inner}</BrushLabels>'


def rectangle() -> str:
    return '<RectangleLabels name="r" toName="i"><Label value="x"/></RectangleLabels>'


def test_the_working_example() -> None:
    config = parse_label_config(FACTS_EXAMPLE)
    assert config.kind == "instances"
    assert (config.image_name, config.image_key) == ("image", "image")
    assert [c.name for c in config.prompts] == ["kp", "rect"]
    assert [c.name for c in config.outputs] == ["brush"]
    assert config.labels == ("Cat",)
    assert config.output_for("Cat").type == "brushlabels"


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        *itertools.product(["bitmask", "brush", "polygon"], ["instances", "segmentation", "weak"]),
        ("rectangle", "boxes"),
        ("brush", "boxes"),
        ("brush", "classes"),
    ],
)
def test_what_is_built_is_read_back(output: str, kind: str) -> None:
    labels = ["cell", 'a <b> & "c"']
    bare = build_label_config(labels, output=output, kind=kind)  # type: ignore[arg-type]
    assert why_items(bare, "a reason") == []
    xml = build_label_config(labels, output=output, kind=kind, why=True)  # type: ignore[arg-type]
    (item,) = why_items(xml, "a reason")
    assert item["to_name"] == "image"
    config = parse_label_config(xml)
    assert config.targets == parse_label_config(bare).targets
    assert config.kind == kind
    assert config.labels == ("cell", 'a <b> & "c"')
    if kind != "classes":
        assert [c.type for c in config.prompts] == ["keypointlabels", "rectanglelabels"]
        assert all(c.smart and c.smart_only for c in config.prompts)
        assert not any(c.smart for c in config.outputs)
        expected = "rectangle" if kind == "boxes" else output
        assert config.output_for("cell").type == f"{expected}labels"
    LabelInterface(xml).validate()


def test_outputs_come_in_order_of_preference() -> None:
    tags = "".join(
        f'<{tag} name="{tag}" toName="i" smart="false"><Label value="{label}"/><Label value="both"/></{tag}>'
        for tag, label in (
            ("RectangleLabels", "r"), ("PolygonLabels", "p"), ("BrushLabels", "b"), ("BitmaskLabels", "m"),
        )
    )  # fmt: skip
    config = parse_label_config(f'<View>{tags}<Image name="i" value="$pic"/></View>')
    assert [c.type for c in config.outputs] == [
        "bitmasklabels",
        "brushlabels",
        "polygonlabels",
        "rectanglelabels",
    ]
    assert config.output_for("both").type == "bitmasklabels"
    assert config.output_for("p").type == "polygonlabels"
    assert set(config.labels) == {"m", "both", "b", "p", "r"}
    assert config.image_key == "pic"


TWO_IMAGES = """<View>
<KeyPointLabels name="ka" toName="a" smart="true" smartOnly="true"><Label value="cat"/></KeyPointLabels>
<KeyPointLabels name="kb" toName="b" smart="true" smartOnly="true"><Label value="cat"/><Label value="dog"/>
</KeyPointLabels>
<BrushLabels name="ba" toName="a" smart="false"><Label value="cat"/></BrushLabels>
<PolygonLabels name="pb" toName="b" smart="false"><Label value="cat"/><Label value="dog"/></PolygonLabels>
<Choices name="light" toName="b"><Choice value="dark"/></Choices>
<Image name="b" value="$after"/><Image name="a" value="$before"/></View>"""


def test_of_two_images_one_is_learnt_from_and_both_can_be_clicked() -> None:
    config = parse_label_config(TWO_IMAGES)
    assert config.image_name == "a"  # it has the better output tag
    assert config.labels == ("cat",)
    assert [c.name for c in config.outputs] == ["ba"]
    assert config.click_labels == ("cat", "dog")
    assert config.click_output("cat", "a").name == "ba"
    assert config.click_output("cat", "b").name == "pb"
    data = {"before": "x", "after": "y"}
    assert (config.image_of(data), config.image_of(data, "b")) == ("x", "y")
    with pytest.raises(BadLabelConfig, match="'a' offers the label 'dog'"):
        config.click_output("dog", "a")


def test_regions_of_the_other_image_are_not_read_as_of_this_one() -> None:
    value = {"points": [[1, 1], [50, 1], [50, 50]], "closed": True, "polygonlabels": ["cat"]}
    item = {
        "id": "1",
        "from_name": "pb",
        "to_name": "b",
        "type": "polygonlabels",
        "original_width": 80,
        "original_height": 60,
        "value": value,
    }
    parsed = parse_annotation([item], parse_label_config(TWO_IMAGES))
    assert parsed.regions == ()
    assert "another picture" in parsed.dropped[0].reason
    assert not parsed.dropped[0].broken


def test_pictures_cannot_be_added_where_the_address_has_no_field_of_its_own() -> None:
    config = parse_label_config(f'<View>{brush()}<Image name="i" value="$image.url"/></View>')
    assert config.image_of({"image": {"url": "x"}}) == "x"
    with pytest.raises(BadLabelConfig, match="pictures cannot be added"):
        _ = config.image_key


def test_a_smart_rectangle_beside_a_mask_tag_is_a_prompt() -> None:
    config = parse_label_config(f"<View>{rectangle()}{brush()}{IMAGE}</View>")
    assert [c.name for c in config.outputs] == ["b"]
    assert [c.name for c in config.prompts] == ["r"]


def test_a_lone_rectangle_is_an_output() -> None:
    config = parse_label_config(f"<View>{rectangle()}{IMAGE}</View>")
    assert config.kind == "boxes"
    assert [c.name for c in config.outputs] == ["r"]


def test_aliases_are_what_results_hold() -> None:
    xml = "<View>" + brush('<Label value="Cat" alias="c"/>') + IMAGE + "</View>"
    assert parse_label_config(xml).labels == ("c",)


def test_digest_follows_labels_and_tags_but_not_colours() -> None:
    one = parse_label_config(build_label_config(["a", "b"], colours=["red", "blue"]))
    two = parse_label_config(build_label_config(["a", "b"], colours=["#fff", "#000"]))
    three = parse_label_config(build_label_config(["a", "c"]))
    assert one.digest == two.digest != three.digest


def test_words_about_doctypes_are_no_doctype() -> None:
    xml = build_label_config(["cell"]).replace("<View>", "<View><!-- no <!DOCTYPE or <!ENTITY here -->", 1)
    assert parse_label_config(xml).labels == ("cell",)


@pytest.mark.parametrize(
    ("xml", "field", "words"),
    [
        ("", "label_config", "empty"),
        ("<View>", "label_config", "well-formed"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><View/>", "label_config", "entities"),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'><View/>", "label_config", "entities"),
        ("<View/>", "label_config.Image", "no Image tag"),
        ('<View><Image name="i"/></View>', "label_config.Image.value", "no value"),
        ('<View><Image value="$i"/></View>', "label_config.Image.name", "no name"),
        ('<View><Image name="i" value="photo.jpg"/></View>', "label_config.Image.value", "variable"),
        ('<View><Image name="i" valueList="$is"/></View>', "label_config.Image.valueList", "not supported"),
        ('<View><Image name="i" value="$i"/></View>', "label_config", "no tag that Groundswell can write"),
        (f"<View>{brush(to='other')}{IMAGE}</View>", "label_config.BrushLabels.toName", "not an Image"),
        (f"<View>{brush('')}{IMAGE}</View>", "label_config.BrushLabels", "no labels"),
        (
            "<View>" + brush('<Label value="x"/>' * 2) + IMAGE + "</View>",
            "label_config.BrushLabels.Label.value",
            "twice",
        ),
        (f"<View>{brush()}{brush()}{IMAGE}</View>", "label_config.name", "two control"),
        ("<View>" * 5000 + brush() + IMAGE + "</View>" * 5000, "label_config", "nested"),
        (
            f'<View className="groundswell-weak">{brush()}{IMAGE}</View>',
            "label_config.Choices",
            "needs a Choices",
        ),
        (
            f'<View className="groundswell-segmentation">{rectangle()}{IMAGE}</View>',
            "label_config.BrushLabels",
            "needs a mask",
        ),
    ],
)
def test_errors_name_the_tag(xml: str, field: str, words: str) -> None:
    with pytest.raises(BadLabelConfig, match=words) as caught:
        parse_label_config(xml)
    assert caught.value.field == field


def test_unknown_label_and_missing_image() -> None:
    config = parse_label_config(FACTS_EXAMPLE)
    with pytest.raises(BadLabelConfig, match="'Dog'"):
        config.output_for("Dog")
    assert config.image_of({"image": " /data/upload/1/a.jpg "}) == "/data/upload/1/a.jpg"
    with pytest.raises(BadLabelConfig, match=r"data\.image.*the task has picture"):
        config.image_of({"picture": "x"})


@pytest.mark.parametrize(
    ("labels", "options", "field"),
    [([], {}, "labels"), (["a", "a"], {}, "labels"), (["a", " "], {}, "labels"),
     (["a"], {"output": "lasso"}, "output"), (["a"], {"kind": "video"}, "kind")],
)  # fmt: skip
def test_builders_check_their_input(labels: list[str], options: dict[str, str], field: str) -> None:
    with pytest.raises(BadLabelConfig) as caught:
        build_label_config(labels, **options)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_review_and_sheet_configs() -> None:
    single = build_review_config()
    LabelInterface(single).validate()
    config = parse_label_config(single)
    assert config.kind == "classes"
    assert [target.kind for target in config.targets] == ["classes"]
    assert config.targets[0].outputs[0].name == "verdict"
    assert config.targets[0].labels == VERDICTS
    for key in "ynu":
        assert f'hotkey="{key}"' in single
    sheet = build_sheet_config()
    LabelInterface(sheet).validate()
    assert 'choice="multiple"' in sheet
    assert 'value="$cards"' in sheet
    assert "required" not in sheet


def test_labels_of_all_outputs_come_once_each() -> None:
    many = [f"label {i}" for i in range(10_000)]
    first = "".join(f'<Label value="{name}"/>' for name in many)
    second = "".join(f'<Label value="{name}"/>' for name in ["other", *many])
    polygon = f'<PolygonLabels name="p" toName="i" smart="false">{second}</PolygonLabels>'
    config = parse_label_config(f"<View>{brush(first)}{polygon}{IMAGE}</View>")
    assert config.labels == (*many, "other")


def test_what_is_kept_of_label_configs_is_bounded_by_bytes() -> None:
    for i in range(30):
        text = f"<View>{brush()}{IMAGE}<!-- {i}{' ' * 400_000} --></View>"
        assert parse_label_config(text) is parse_label_config(text)
    assert label_config._known.nbytes <= 16 * 1024**2
    assert len(label_config._known) < 30
