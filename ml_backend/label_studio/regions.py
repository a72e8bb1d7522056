"""The one place that reads and writes Label Studio's region JSON.

Reading (``parse_annotation``) keeps only results whose ``from_name`` *and* ``type`` belong to an output tag
of the label config: drafts and carelessly accepted suggestions also hold the prompt points, and second
items that reuse a region's id under the prompt tag. Whatever is left out is reported with its reason.

Writing (``to_result``) gives any output tag what it wants, with region ids that follow from a key, so that
the same instance is the same region every time. Coordinates in Label Studio are percent of the image; ours
are pixels, x to the right, y down, of the image as the editor shows it (EXIF orientation applied).

Provenance of a region goes into ``meta``: ``text`` is what the editor shows, ``groundswell`` what we read
back. The editor (1.23.2) keeps ``meta`` of a region as it is, whatever its keys.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadRegion, GroundswellError
from ml_backend.instances import Instances, Rle
from ml_backend.label_studio.codecs.bitmask import bitmask_to_rle, check_bitmask, rle_to_bitmask
from ml_backend.label_studio.codecs.brush import brush_to_rle, check_brush, rle_to_brush
from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.masks.outlines import polygon_to_rle, rle_to_polygon
from ml_backend.masks.rle import rle_area, rle_box
from ml_backend.masks.run_lengths import MAX_PIXELS

__all__ = [
    "Dropped",
    "ParsedAnnotation",
    "Region",
    "Rendered",
    "parse_annotation",
    "provenance_meta",
    "region_id",
    "render",
    "to_result",
    "validate_result",
]

RegionKind = Literal["mask", "box", "polygon"]
_KIND_OF_TAG: Final[dict[str, RegionKind]] = {
    "bitmasklabels": "mask",
    "brushlabels": "mask",
    "polygonlabels": "polygon",
    "rectanglelabels": "box",
}
_ID_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One region of an annotation or prediction.

    Attributes
    ----------
    id : id of the region within its annotation
    kind : what was drawn
    label : class
    rle : the mask at the size of the image (rectangles and polygons filled)
    box_xyxy : tight box of the mask in pixels
    score : as a model gave it, None for a person's
    meta : Label Studio's ``meta`` of the region
    origin : ``manual``, ``prediction`` or ``prediction-changed`` as the editor says, empty if it does not
    """

    id: str
    kind: RegionKind
    label: str
    rle: Rle
    box_xyxy: tuple[float, float, float, float]
    score: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What Groundswell wrote about the region's origin (key, cluster, purity, …); empty if it wrote
        nothing.
        """
        found = self.meta.get("groundswell")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Dropped:
    """A result that was left out: its place in the list, its id, and why. ``broken`` = worth telling a
    person.
    """

    index: int
    id: str
    reason: str
    broken: bool


@dataclass(frozen=True, slots=True)
class ParsedAnnotation:
    """Regions and choices of one annotation; ``hw`` is None when neither caller nor results gave a size."""

    hw: tuple[int, int] | None
    regions: tuple[Region, ...]
    choices: Mapping[str, tuple[str, ...]]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """Results for Label Studio and, per region, the IoU of what is stored with the mask it came from."""

    result: list[dict[str, Any]]
    iou: list[float]


def region_id(key: str) -> str:
    """10 characters that follow from ``key``: the form of the editor's own ids."""
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    digits = []
    for _ in range(10):
        number, digit = divmod(number, 62)
        digits.append(_ID_ALPHABET[digit])
    return "".join(digits)


# Reading


def parse_annotation(
    result: Sequence[Mapping[str, Any]], config: LabelConfig, hw: tuple[int, int] | None = None
) -> ParsedAnnotation:
    """Regions of an annotation's (or prediction's) ``result``.

    ``hw`` is the true size of the image; without it each region's own ``original_width`` and
    ``original_height`` count. One broken region does not harm the others: it is listed in ``dropped`` with
    ``broken=True``. Raises BadRegion only when ``result`` is not a list of objects.
    """
    if not isinstance(result, list | tuple):
        raise BadRegion(f"result is {type(result).__name__}, expected a list", field="result")
    outputs = {c.name: c for c in config.outputs}
    regions: list[Region] = []
    choices: dict[str, tuple[str, ...]] = {}
    dropped: list[Dropped] = []
    size = hw
    for index, item in enumerate(result):
        if not isinstance(item, Mapping):
            raise BadRegion(f"item is {type(item).__name__}, expected an object", field=f"result[{index}]")
        identity = str(item.get("id", ""))
        reason = _not_ours(item, outputs, config)
        if reason:
            dropped.append(Dropped(index, identity, reason, False))
            continue
        try:
            if item["type"] == "choices":
                picked = tuple(str(x) for x in _value(item).get("choices") or ())
                name = str(item["from_name"])
                choices[name] = choices.get(name, ()) + picked
                continue
            region_hw = _size(item, hw)
            regions.append(_read_region(item, outputs[item["from_name"]], region_hw, identity or f"#{index}"))
            size = size or region_hw
        except GroundswellError as error:
            dropped.append(Dropped(index, identity, str(error), True))
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            dropped.append(
                Dropped(index, identity, f"unreadable value ({type(error).__name__}: {error})", True)
            )
    return ParsedAnnotation(size, tuple(regions), choices, tuple(dropped))


def _not_ours(item: Mapping[str, Any], outputs: Mapping[str, ControlTag], config: LabelConfig) -> str:
    """Why a result is not one of an output tag; empty when it is."""
    name, kind = item.get("from_name"), item.get("type")
    if kind == "relation":
        return "a relation"
    control = config.control(name) if isinstance(name, str) else None
    if control is None:
        return f"from_name {name!r} is no tag of the label config"
    if control.type != kind:
        return f"type {kind!r} does not belong to tag {name!r} ({control.type})"
    if control.name not in outputs and control.type != "choices":
        return "a prompt of a smart tool" if control.smart else "not an output tag"
    if "is_positive" in item:
        return "a prompt of a smart tool"
    return ""


def _value(item: Mapping[str, Any]) -> Mapping[str, Any]:
    value = item.get("value")
    if not isinstance(value, Mapping):
        raise BadRegion("there is no value object", field="value")
    return value


def _size(item: Mapping[str, Any], hw: tuple[int, int] | None) -> tuple[int, int]:
    width, height = item.get("original_width"), item.get("original_height")
    if width is None or height is None:
        if hw is None:
            raise BadRegion("original_width and original_height are missing", field="original_width")
        return hw
    found = (int(height), int(width))
    if found[0] <= 0 or found[1] <= 0:
        raise BadRegion(f"size {found[1]}×{found[0]} is not positive", field="original_width")
    if found[0] * found[1] > MAX_PIXELS:
        raise BadRegion(f"size {found[1]}×{found[0]} is too large for a mask", field="original_width")
    if hw is not None and found != tuple(hw):
        raise BadRegion(
            f"drawn on an image of {found[1]}×{found[0]} pixels, the image now has {hw[1]}×{hw[0]}",
            field="original_width",
            hint="The image behind this task was replaced; draw the region again",
        )
    return found


def _read_region(item: Mapping[str, Any], control: ControlTag, hw: tuple[int, int], identity: str) -> Region:
    value = _value(item)
    label = _label(value, control)
    if control.type == "brushlabels":
        rle = brush_to_rle(_brush_data(value), hw)
    elif control.type == "bitmasklabels":
        rle = bitmask_to_rle(value.get("imageDataURL"), hw)
    elif control.type == "polygonlabels":
        rle = polygon_to_rle(_percent_points(value) / 100 * (hw[1], hw[0]), hw)
    else:
        rle = polygon_to_rle(_rectangle_corners(value, hw), hw)
    if rle_area(rle) == 0:
        raise BadRegion("the region covers no pixel", field="value")
    score = item.get("score")
    meta = item.get("meta")
    return Region(
        id=identity,
        kind=_KIND_OF_TAG[control.type],
        label=label,
        rle=rle,
        box_xyxy=rle_box(rle),
        score=float(score) if isinstance(score, int | float) else None,
        meta=meta if isinstance(meta, Mapping) else {},
        origin=str(item.get("origin", "")),
    )


def _label(value: Mapping[str, Any], control: ControlTag) -> str:
    found = value.get(control.value_key)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise BadRegion("the region has no label", field=f"value.{control.value_key}")
    label = str(found[0])
    if label not in control.labels:
        raise BadRegion(
            f"label {label!r} is not in the label config",
            field=f"value.{control.value_key}",
            hint=f"Known labels: {', '.join(control.labels)}",
        )
    return label


def _brush_data(value: Mapping[str, Any]) -> Sequence[int]:
    if value.get("format", "rle") != "rle":
        raise BadRegion(f"brush format {value.get('format')!r} is not rle", field="value.format")
    data = value.get("rle")
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise BadRegion("there is no rle list", field="value.rle")
    return data


def _percent_points(value: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """(n, 2) corners in percent."""
    points = np.asarray(value.get("points"), np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise BadRegion("points must be at least three [x, y] pairs", field="value.points")
    if not np.isfinite(points).all():
        raise BadRegion("a corner is not a finite number", field="value.points")
    return points


def _rectangle_corners(value: Mapping[str, Any], hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(4, 2) corners in pixels; rotation is in degrees, clockwise, about the top left corner."""
    x, y, w, h = (_number(value, key) for key in ("x", "y", "width", "height"))
    angle = math.radians(_number(value, "rotation") if value.get("rotation") is not None else 0.0)
    scale_x, scale_y = hw[1] / 100, hw[0] / 100
    along = np.array([math.cos(angle), math.sin(angle)]) * (w * scale_x)
    across = np.array([-math.sin(angle), math.cos(angle)]) * (h * scale_y)
    corner = np.array([x * scale_x, y * scale_y])
    return np.stack([corner, corner + along, corner + along + across, corner + across])


def _number(value: Mapping[str, Any], key: str) -> float:
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise BadRegion(f"{key} is {found!r}, expected a number", field=f"value.{key}")
    return float(found)


# Writing


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
    """Results for Label Studio, one per item.

    Parameters
    ----------
    items : instances of one image, or regions
    hw : (height, width) of the image
    labels : names of ``Instances.label``; default ``config.labels``
    keys : one stable key per item, from which the region id follows; regions keep their id by default,
    instances
        get one from their place
    meta : what to store as ``meta`` of each region (see ``provenance_meta``)
    output : the tag to write to; default: the preferred output tag that knows the label
    tolerance_px : how far a polygon may be from the outline of the mask, in pixels of the image

    Raises BadLabelConfig when no output tag knows a label, BadRegion on an empty or ill-sized mask.
    """
    regions = _as_regions(items, labels or config.labels, keys)
    for name, column in (("keys", keys), ("meta", meta)):
        if column and len(column) != len(regions):
            raise ValueError(f"{name} has {len(column)} entries for {len(regions)} items")
    result: list[dict[str, Any]] = []
    ious: list[float] = []
    for i, region in enumerate(regions):
        control = output or config.output_for(region.label)
        value, iou = _write_value(region, control, hw, tolerance_px)
        item: dict[str, Any] = {
            "id": region_id(keys[i]) if keys else region.id,
            "type": control.type,
            "from_name": control.name,
            "to_name": control.to_name,
            "original_width": hw[1],
            "original_height": hw[0],
            "image_rotation": 0,
            "value": {**value, control.value_key: [region.label]},
        }
        if region.score is not None:
            item["score"] = round(min(max(float(region.score), 0.0), 1.0), 4)
        found = meta[i] if meta else region.meta
        if found:
            item["meta"] = dict(found)
        result.append(item)
        ious.append(iou)
    return Rendered(result, ious)


def _as_regions(
    items: Instances | Sequence[Region], labels: Sequence[str], keys: Sequence[str]
) -> Sequence[Region]:
    if not isinstance(items, Instances):
        return items
    return [
        Region(
            id="" if keys else region_id(f"{i}:{items.rle[i]['counts']}"),
            kind="mask",
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
    if control.type == "brushlabels":
        return {"format": "rle", "rle": rle_to_brush(region.rle)}, 1.0
    if control.type == "bitmasklabels":
        return {"imageDataURL": rle_to_bitmask(region.rle)}, 1.0
    if control.type == "polygonlabels":
        polygon, iou = rle_to_polygon(region.rle, tolerance_px=tolerance_px)
        percent = polygon * (100 / hw[1], 100 / hw[0])
        return {"points": np.round(percent, 4).tolist(), "closed": True}, iou
    if control.type == "rectanglelabels":
        x0, y0, x1, y1 = region.box_xyxy if region.kind != "mask" else rle_box(region.rle)
        area = rle_area(region.rle)
        return {
            "x": round(x0 / hw[1] * 100, 5),
            "y": round(y0 / hw[0] * 100, 5),
            "width": round((x1 - x0) / hw[1] * 100, 5),
            "height": round((y1 - y0) / hw[0] * 100, 5),
            "rotation": 0,
        }, area / max((x1 - x0) * (y1 - y0), 1.0)
    raise BadRegion(f"masks cannot be written to a {control.type} tag", field=control.name)


def provenance_meta(text: str, **fields: Any) -> dict[str, Any]:
    """``meta`` of a region: ``text`` is shown in the editor, ``fields`` are read back as
    ``Region.provenance``.
    """
    return {"text": [text], "groundswell": fields} if fields else {"text": [text]}


# Checking before a push


def validate_result(
    result: Sequence[Mapping[str, Any]],
    config: LabelConfig,
    score: float | None = None,
    *,
    deep: bool = False,
) -> list[str]:
    """What Label Studio would drop or show wrongly, one line per finding; empty = fine.

    Label Studio drops invalid rows of a bulk import without a word, so this runs before each push. Beyond the
    SDK's own check it looks at sizes, coordinates and the headers of masks; ``deep`` decodes the masks too,
    which costs about a hundred times as much and is for results that other programs wrote.
    """
    problems: list[str] = []
    if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
        problems.append(f"score: {score!r} is outside 0..1")
    seen: set[str] = set()
    for index, item in enumerate(result):
        where = f"result[{index}]"
        control = config.control(str(item.get("from_name")))
        if control is None:
            problems.append(f"{where}.from_name: {item.get('from_name')!r} is no tag of the label config")
            continue
        if item.get("type") != control.type:
            problems.append(
                f"{where}.type: {item.get('type')!r}, tag {control.name!r} needs {control.type!r}"
            )
            continue
        if item.get("to_name") != control.to_name:
            problems.append(f"{where}.to_name: {item.get('to_name')!r}, expected {control.to_name!r}")
        found = item.get("score")
        if found is not None and not (isinstance(found, int | float) and 0 <= found <= 1):
            problems.append(f"{where}.score: {found!r} is outside 0..1")
        if control.type == "choices":
            picked = item.get("value", {}).get("choices")
            if not isinstance(picked, list) or any(
                control.labels and x not in control.labels for x in picked
            ):
                problems.append(f"{where}.value.choices: {picked!r} does not fit {list(control.labels)}")
            continue
        identity = str(item.get("id", ""))
        if not identity or identity in seen:
            problems.append(f"{where}.id: {identity!r} is " + ("there twice" if identity else "missing"))
        seen.add(identity)
        problems += [f"{where}.{line}" for line in _validate_region(item, control, deep=deep)]
    return problems


def _validate_region(item: Mapping[str, Any], control: ControlTag, *, deep: bool) -> list[str]:
    width, height = item.get("original_width"), item.get("original_height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return [f"original_width: {width!r} × {height!r} is no image size"]
    if control.type not in _KIND_OF_TAG:
        return [f"type: {control.type} is not an output tag"]
    try:
        value = _value(item)
        _label(value, control)
        if control.type == "rectanglelabels":
            x, y, w, h = (_number(value, key) for key in ("x", "y", "width", "height"))
            out = x < -0.01 or y < -0.01 or x + w > 100.01 or y + h > 100.01
            if out and not value.get("rotation"):
                return [f"value: box {x:g},{y:g} {w:g}×{h:g} % leaves the image"]
            if w <= 0 or h <= 0:
                return [f"value: box of {w:g}×{h:g} % covers no pixel"]
        elif control.type == "polygonlabels":
            _percent_points(value)
        elif control.type == "brushlabels":
            check_brush(_brush_data(value), (height, width))
        else:
            check_bitmask(value.get("imageDataURL"), (height, width))
        if deep:
            _read_region(item, control, (height, width), "")
    except GroundswellError as error:
        return [str(error)]
    except (TypeError, ValueError, KeyError) as error:
        return [f"value: unreadable ({error})"]
    return []
