"""Label configs of any text: parsed into something that can be worked with, or refused by name."""

from __future__ import annotations

import xml.sax.saxutils
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.errors import BadInput, BadLabelConfig
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_reader import parse_annotation
from tests.fuzzing import fuzz, junk, refusal, texts

TAGS = (
    "View", "Image", "BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels", "KeyPointLabels",
    "Choices", "Choice", "Label", "Labels", "Brush", "Rectangle", "Polygon", "Bitmask", "Text", "Relations",
    "image",
)  # fmt: skip
ATTRIBUTES = (
    "name", "toName", "value", "smart", "smartOnly", "alias", "perRegion", "choice", "valueList", "className",
    "background", "hotkey",
)  # fmt: skip
said = st.sampled_from(
    ["i", "image", "b", "$image", "$a.b[0]", "true", "false", "multiple", "x", "$", "", "$undefined$"]
)
attributes = st.dictionaries(st.sampled_from(ATTRIBUTES), said | texts, max_size=5)


def _element(parts: tuple[str, dict[str, str], list[str]]) -> str:
    tag, named, inner = parts
    words = "".join(f" {name}={xml.sax.saxutils.quoteattr(value)}" for name, value in named.items())
    return f"<{tag}{words}>{''.join(inner)}</{tag}>"


trees = st.recursive(
    st.tuples(st.sampled_from(TAGS), attributes, st.just([])).map(_element),
    lambda inner: st.tuples(st.sampled_from(TAGS), attributes, st.lists(inner, max_size=4)).map(_element),
    max_leaves=12,
)
whole = st.lists(trees, max_size=5).map(
    lambda inner: (
        "<View><Image name='i' value='$image'/><BrushLabels name='b' toName='i'><Label value='x'/>"
        f"</BrushLabels>{''.join(inner)}</View>"
    )
)
damaged = st.tuples(
    st.just(build_label_config(["cat", "dog"])), st.integers(0, 400), st.integers(0, 20), texts
).map(lambda cut: cut[0][: cut[1]] + cut[3] + cut[0][cut[1] + cut[2] :])


@given(text=trees | whole | damaged | texts | st.text(max_size=60), result=st.lists(junk, max_size=2))
@fuzz(250)
def test_any_label_config_is_read_or_refused_by_name(text: str, result: list[Any]) -> None:
    config = refusal(lambda: parse_label_config(text))
    if isinstance(config, BadInput):
        assert isinstance(config, BadLabelConfig)
        assert config.field.startswith("label_config")
        assert len(config.message) < 6000
        return
    assert config.labels
    assert config.targets
    assert parse_label_config(config.xml).digest == config.digest
    assert all(config.target_of(label).kind for label in config.labels)
    refusal(lambda: parse_annotation(result, config, (4, 5)))
    refusal(lambda: config.image_of({"image": "x", "a": {"b": ["y"]}}))


@pytest.mark.parametrize(
    "text",
    [
        "<View>" * 100_000,
        "<View>" * 5000 + "</View>" * 5000,
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><View>&b;</View>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><View/>',
        '<?xml version="1.0" encoding="utf-16"?><View/>',
        "<View><Image name='i' value='$image'/>" + "<Label value='x'/>" * 200_000 + "</View>",
        "<View><Image name='i' value='$" + "a" * 3_000_000 + "'/></View>",
    ],
)
def test_bombs_are_refused(text: str) -> None:
    with pytest.raises(BadLabelConfig):
        parse_label_config(text)
