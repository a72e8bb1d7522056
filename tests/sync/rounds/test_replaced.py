"""What a person drew or changed is never taken for a proposal that a click replaced."""

from __future__ import annotations

from typing import Any, Final

from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.regions import started_from
from sync.rounds.region_rows import region_rows

CONFIG: Final = """<View><Image name="image" value="$image"/>
<{tag} name="mask" toName="image"><Label value="disc"/><Label value="bar"/></{tag}>
<KeyPointLabels name="click" toName="image" smart="true"><Label value="disc"/><Label value="bar"/>
</KeyPointLabels></View>"""


def _polygon(identity: str, right: float, origin: str, **fields: Any) -> dict[str, Any]:
    """A region from 10 % to ``right`` % of a picture's width."""
    points = [[10, 10], [right, 10], [right, 60], [10, 60]]
    return {
        "id": identity, "from_name": "mask", "to_name": "image", "type": "polygonlabels", "origin": origin,
        "original_width": 100, "original_height": 100,
        "value": {"points": points, "closed": True, "polygonlabels": ["disc"]}, **fields,
    }  # fmt: skip


def test_a_polygon_always_stays_because_the_editor_does_not_tell_that_its_points_were_moved() -> None:
    config = parse_label_config(CONFIG.format(tag="PolygonLabels"))
    moved = _polygon("moved", 60, "prediction")  # the editor of Label Studio 1.23 leaves the origin as it is
    for right in (60, 30):
        click = _polygon("click", right, "manual", score=0.7, meta=started_from("moved"))
        assert [row["id"] for row in region_rows(config, [moved, click])] == ["moved", "click"]


def _box(
    identity: str, origin: str, label: str = "disc", *, height: float = 50, **fields: Any
) -> dict[str, Any]:
    value = {"x": 10, "y": 10, "width": 50, "height": height, "rectanglelabels": [label]}
    return _polygon(identity, 60, origin, **fields) | {"type": "rectanglelabels", "value": value}


def test_of_two_regions_with_one_id_the_accepted_one_stays() -> None:
    config = parse_label_config(CONFIG.format(tag="RectangleLabels"))
    rows = region_rows(config, [_box("same", "prediction"), _box("same", "manual", score=0.7)])
    assert [(row["id"], row.get("replaced")) for row in rows] == [("same", ["same"])]


def test_a_click_of_another_label_replaces_nothing() -> None:
    config = parse_label_config(CONFIG.format(tag="RectangleLabels"))
    click = _box("click", "manual", "bar", score=0.7, meta=started_from("proposal"))
    rows = region_rows(config, [_box("proposal", "prediction"), click])
    assert [row["id"] for row in rows] == ["proposal", "click"]


def test_a_small_object_on_a_large_proposal_leaves_it_where_it_is() -> None:
    config = parse_label_config(CONFIG.format(tag="RectangleLabels"))

    def left(height: float) -> list[str]:
        click = _box("click", "manual", height=height, score=0.7, meta=started_from("large"))
        return [row["id"] for row in region_rows(config, [_box("large", "prediction"), click])]

    assert left(10) == ["large", "click"]
    assert left(14) == ["click"], "more than a quarter: a correction"
