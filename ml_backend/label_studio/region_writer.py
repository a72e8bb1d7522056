"""Convert ``Region`` and ``Instances`` to Label Studio's region JSON, in the form that each output tag needs.

Region ids are computed from a key, so that an instance has the same region id every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ml_backend.errors import BadRegion
from ml_backend.instances import Instances
from ml_backend.label_studio.codecs.rectangle import write_rotated
from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.label_studio.label_rows import label_result
from ml_backend.label_studio.regions import CODECS, Region, region_id
from ml_backend.masks.outlines import FAITHFUL_IOU
from ml_backend.masks.rle import rle_box

__all__ = ["Rendered", "render", "to_result"]

_UNFAITHFUL: Final = (
    "This polygon is not the whole mask (they overlap by {share:.0%}): a polygon has one part and no holes. "
    "Use a brush or bitmask tag to keep all of it."
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Results for Label Studio and, per region, the IoU of what is stored with the mask it came from."""

    result: list[dict[str, Any]]
    iou: list[float]


def to_result(
    items: Instances | Sequence[Region],
    config: LabelConfig,
    hw: tuple[int, int],
    *,
    labels: Sequence[str] = (),
    keys: Sequence[str] = (),
    meta: Sequence[Mapping[str, Any] | None] = (),
    output: ControlTag | None = None,
    tolerance_px: float = 1.0,
) -> list[dict[str, Any]]:
    """``render`` without the IoUs."""
    return render(
        items, config, hw, labels=labels, keys=keys, meta=meta, output=output, tolerance_px=tolerance_px
    ).result


def render(
    items: Instances | Sequence[Region],
    config: LabelConfig,
    hw: tuple[int, int],
    *,
    labels: Sequence[str] = (),
    keys: Sequence[str] = (),
    meta: Sequence[Mapping[str, Any] | None] = (),
    output: ControlTag | None = None,
    tolerance_px: float = 1.0,
) -> Rendered:
    """Results for Label Studio, one per item (two where a Labels tag says the label); classes of the picture
    share one result per Choices tag.

    Parameters
    ----------
    items : instances of one image, or regions
    hw : (height, width) of the image
    labels : names of ``Instances.label``; default ``config.labels``
    keys : one stable key per item, from which its region id is computed. Without keys, regions keep their id
        and instances get an id from their place in the list.
    meta : what to store as ``meta`` of each region (see ``provenance_meta``)
    output : the tag to write to; default: the preferred output tag that knows the label
    tolerance_px : how far a polygon may be from the outline of the mask, in pixels of the image; less where
        the mask is so thin that it would be lost. A polygon that still does not show the mask says so in its
        ``meta``.

    Raises BadLabelConfig when no output tag knows a label, BadRegion on a mask that is empty or does not
    have the size of the image.
    """
    regions = _as_regions(items, config, labels or config.labels, keys)
    for name, column in (("keys", keys), ("meta", meta)):
        if column and len(column) != len(regions):
            raise ValueError(f"{name} has {len(column)} entries for {len(regions)} items")
    result: list[dict[str, Any]] = []
    ious: list[float] = []
    picked: dict[str, dict[str, Any]] = {}
    for i, region in enumerate(regions):
        control = output or config.output_for(region.label)
        if control.type == "choices":
            item = _pick(picked, result, control, region, config.target_of(region.label).value(region.label))
            if meta and meta[i]:
                item["meta"] = dict(meta[i] or {})
            ious.append(1.0)
            continue
        value, iou = _write_value(region, control, hw, tolerance_px)
        item = {
            "id": region_id(keys[i]) if keys else region.id,
            "type": control.type,
            "from_name": control.name,
            "to_name": control.to_name,
            "original_width": hw[1],
            "original_height": hw[0],
            "image_rotation": 0,
            "value": value if control.label_tag else {**value, control.value_key: [region.label]},
        }
        if region.score is not None:
            item["score"] = round(min(max(float(region.score), 0.0), 1.0), 4)
        found = dict((meta[i] if meta else region.meta) or {})
        if control.shape == "polygon" and iou < FAITHFUL_IOU:
            line = _UNFAITHFUL.format(share=iou)
            found["text"] = [*(one for one in _lines(found.get("text")) if one != line), line]
        if found:
            item["meta"] = found
        result.append(item)
        if control.label_tag:
            result.append(label_result(item, control, region.label))
        ious.append(iou)
    return Rendered(result, ious)


def _lines(text: object) -> list[str]:
    """The lines that the editor shows of a region's ``meta``."""
    if isinstance(text, str):
        return [text]
    return [str(line) for line in text] if isinstance(text, list | tuple) else []


def _pick(
    picked: dict[str, dict[str, Any]],
    result: list[dict[str, Any]],
    control: ControlTag,
    region: Region,
    value: str,
) -> dict[str, Any]:
    """Add a class of the picture, and return the result that holds it.

    All choices of a tag stand in one result, with the lowest of their scores.
    """
    score = 1.0 if region.score is None else round(min(max(float(region.score), 0.0), 1.0), 4)
    item = picked.get(control.name)
    if item is None:
        item = picked[control.name] = {
            "id": region_id(f"choices:{control.name}"),
            "type": control.type,
            "from_name": control.name,
            "to_name": control.to_name,
            "value": {"choices": []},
            "score": score,
        }
        result.append(item)
    item["value"]["choices"].append(value)
    item["score"] = min(item["score"], score)
    return item


def _as_regions(
    items: Instances | Sequence[Region], config: LabelConfig, labels: Sequence[str], keys: Sequence[str]
) -> Sequence[Region]:
    if not isinstance(items, Instances):
        return items
    return [
        Region(
            id="" if keys else region_id(f"{i}:{items.rle[i]['counts']}"),
            kind="box" if config.kind_of(labels[int(items.label[i])]).unit == "box" else "mask",
            label=labels[int(items.label[i])],
            rle=items.rle[i],
            box_xyxy=(float(b[0]), float(b[1]), float(b[2]), float(b[3])),
            score=float(items.score[i]),
        )
        for i, b in enumerate(items.box_xyxy)
    ]


def _write_value(
    region: Region, control: ControlTag, hw: tuple[int, int], tolerance_px: float
) -> tuple[dict[str, Any], float]:
    """(value without its labels, IoU with the mask)."""
    if list(region.rle["size"]) != [hw[0], hw[1]]:  # type: ignore[call-overload]
        raise BadRegion(f"mask has size {region.rle['size']}, the image {[hw[0], hw[1]]}", field="rle")
    codec = CODECS.get(control.type)
    if codec is None:
        raise BadRegion(f"masks cannot be written to a {control.type} tag", field=control.name)
    if region.rotated and control.shape == "rectangle":
        return write_rotated(region.rotated, hw), 1.0
    box = region.box_xyxy if region.kind != "mask" else rle_box(region.rle)
    return codec.write(region.rle, hw, box, tolerance_px)
