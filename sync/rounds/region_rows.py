"""Regions of an annotation as the store keeps them: plain JSON with masks as COCO RLE (run lengths)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.region_reader import parse_annotation
from ml_backend.masks.rle import parse_rle

__all__ = ["plain_rle", "region_rows"]


def region_rows(config: LabelConfig, result: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``{"id", "label", "rle", "box_xyxy"}`` per region a person drew; clicks and leftovers are dropped.

    Raises BadRegion when a region of an output tag cannot be read, or when two regions were drawn on images
    of different sizes: half of a task's objects would teach the model that the others are background.
    """
    parsed = parse_annotation(result, config)
    for dropped in parsed.dropped:
        if dropped.broken:
            name = dropped.id or "without id"
            raise BadRegion(dropped.reason, field=f"result[{dropped.index}] (region {name})")
    rows: list[dict[str, Any]] = [
        {
            "id": region.id,
            "label": region.label,
            "rle": plain_rle(region.rle),
            "box_xyxy": [round(float(x), 2) for x in region.box_xyxy],
        }
        for region in parsed.regions
    ]
    sizes = {tuple(row["rle"]["size"]) for row in rows}
    if len(sizes) > 1:
        raise BadRegion(
            f"regions of one task have different image sizes: {sorted(sizes)}",
            field="result",
            hint="The image behind this task was replaced; draw its regions again",
        )
    return rows


def plain_rle(rle: Rle) -> dict[str, Any]:
    """The RLE as JSON, ``{"size": [height, width], "counts": str}``, checked. Raises BadInput."""
    return parse_rle(rle)
