"""Which picture the value of an Image tag means: as Label Studio's own editor reads it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ml_backend.errors import BadLabelConfig
from ml_backend.label_studio.image_values import parse_image_value

DATA: Mapping[str, object] = {
    "image": "/data/a.png",
    "page.url": "flat",
    "page": {"url": "nested", "sizes": [{"full": "s0"}, {"full": "s1"}]},
    "pictures": ["p0", "p1"],
    "alone": ["p0"],
    "name": "cell_7",
    "number": 7,
    "empty": " ",
}


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("$image", "/data/a.png"),
        ("$page.url", "flat"),  # a field of that very name comes first
        ("$page.sizes[1].full", "s1"),
        ("$pictures[0]", "p0"),
        ("$alone", "p0"),
        ("https://x.org/$name", "https://x.org/cell_7"),
        ("https://x.org/$name/$number/full", "https://x.org/cell_7/7/full"),
    ],
)
def test_values_that_name_a_picture(value: str, address: str) -> None:
    assert parse_image_value(value).address_in(DATA) == address


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ("$other", "data.other", "no text"),
        ("$pictures[2]", "data.pictures[2]", "no text"),
        ("$pictures", "data.pictures", "2 pictures"),
        ("$page", "data.page", "no text"),
        ("$empty", "data.empty", "no text"),
        ("$number", "data.number", "no text"),
        ("$image.url", "data.image.url", "no text"),
        ("https://x.org/$name.jpg", "data.name.jpg", "no text"),  # the editor reads "jpg" of "name"
    ],
)
def test_values_that_name_none(value: str, field: str, words: str) -> None:
    with pytest.raises(BadLabelConfig, match=words) as error:
        parse_image_value(value).address_in(DATA)
    assert error.value.field == field


def test_a_value_names_a_variable() -> None:
    with pytest.raises(BadLabelConfig, match="expected a variable"):
        parse_image_value("photo.jpg")
    assert parse_image_value("$image").key == "image"
    assert not parse_image_value("$image.url").is_field
