"""Convert Label Studio's region JSON to ``Region``.

Only results whose ``from_name`` *and* ``type`` belong to an output tag of the label config are read. Drafts
and quickly accepted suggestions contain more: the points of a click, and second items under the prompt tag
with the id of a region. Everything left out is reported with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ml_backend.errors import BadRegion, GroundswellError
from ml_backend.label_studio.codecs.base import finite
from ml_backend.label_studio.codecs.choices import read_choices
from ml_backend.label_studio.codecs.rectangle import rotated_box, upright_box
from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.label_studio.label_rows import is_label, joined
from ml_backend.label_studio.regions import CODECS, Region, label_of, value_of
from ml_backend.masks.rle import rle_area, rle_box
from ml_backend.masks.run_lengths import MAX_PIXELS

__all__ = ["Dropped", "ParsedAnnotation", "parse_annotation", "read_region"]


_PROMPT: Final = "a prompt of a smart tool"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A result that was left out: its place in the list, its id, and why.

    ``broken``: it is damaged; ``foreign``: it was made with a tag that the label config does not have;
    ``is_prompt``: it is a point or box of a smart tool.
    """

    index: int
    id: str
    reason: str
    broken: bool
    foreign: bool = False
    is_prompt: bool = False


@dataclass(frozen=True, slots=True)
class ParsedAnnotation:
    """Regions and choices of one annotation. ``hw`` is None when neither caller nor results gave a size."""

    hw: tuple[int, int] | None
    regions: tuple[Region, ...]
    choices: Mapping[str, tuple[str, ...]]
    dropped: tuple[Dropped, ...]


def parse_annotation(
    result: Sequence[Mapping[str, Any]], config: LabelConfig, hw: tuple[int, int] | None = None
) -> ParsedAnnotation:
    """Regions of an annotation's (or prediction's) ``result``.

    ``hw`` is the true (height, width) of the image. Without it each region's own ``original_width`` and
    ``original_height`` are used. A broken region does not affect the others: it is listed in ``dropped`` with
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
    for index, item in joined(result, config):
        identity = str(item.get("id", ""))
        reason = _why_not_ours(item, outputs, config)
        if reason:
            name = item.get("from_name")
            control = config.control(name) if isinstance(name, str) else None
            is_known = control is not None and control.type == item.get("type")
            foreign = not is_known and item.get("type") != "relation"
            dropped.append(Dropped(index, identity, reason, False, foreign, reason == _PROMPT))
            continue
        try:
            if item["type"] == "choices":
                name = str(item["from_name"])
                choices[name] = choices.get(name, ()) + read_choices(value_of(item))
                continue
            region_hw = _size(item, hw)
            regions.append(read_region(item, outputs[item["from_name"]], region_hw, identity or f"#{index}"))
            size = size or region_hw
        except GroundswellError as error:
            dropped.append(Dropped(index, identity, str(error), True))
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            dropped.append(
                Dropped(index, identity, f"unreadable value ({type(error).__name__}: {error})", True)
            )
    return ParsedAnnotation(size, tuple(regions), choices, tuple(dropped))


def read_region(item: Mapping[str, Any], control: ControlTag, hw: tuple[int, int], identity: str) -> Region:
    """One result of an output tag. Raises BadRegion, and what Python raises on values of wrong types."""
    value = value_of(item)
    label = label_of(value, control)
    codec = CODECS[control.type]
    rle = codec.read(value, hw)
    if rle_area(rle) == 0:
        raise BadRegion("the region covers no pixel", field="value")
    rotated = rotated_box(value, hw) if codec.kind == "box" else ()
    is_upright = codec.kind == "box" and not rotated
    meta = item.get("meta")
    return Region(
        id=identity,
        kind=codec.kind,
        label=label,
        rle=rle,
        box_xyxy=upright_box(value, hw) if is_upright else rle_box(rle),
        score=finite(item.get("score")),
        meta=meta if isinstance(meta, Mapping) else {},
        origin=str(item.get("origin", "")),
        rotated=rotated,
    )


def _why_not_ours(item: Mapping[str, Any], outputs: Mapping[str, ControlTag], config: LabelConfig) -> str:
    """Why a result is not one of an output tag; empty when it is."""
    name, kind = item.get("from_name"), item.get("type")
    if kind == "relation":
        return "a relation"
    control = config.control(name) if isinstance(name, str) else None
    if control is None:
        return f"from_name {name!r} is no tag of the label config"
    if control.type != kind:
        return f"type {kind!r} does not belong to tag {name!r} ({control.type})"
    if control.to_name != config.image_name:
        return f"about another picture of the task ({control.to_name})"
    if is_label(item, config):
        return "the label of another result"
    if control.name not in outputs and control.type != "choices":
        return _PROMPT if control.smart else "not an output tag"
    if "is_positive" in item:
        return _PROMPT
    return ""


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
