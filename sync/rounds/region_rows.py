"""Regions of an annotation as the store keeps them: plain JSON with masks as COCO RLE (run lengths)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.kinds.base import LabelledMask
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.region_reader import ParsedAnnotation, parse_annotation
from ml_backend.masks.rle import parse_rle
from ml_backend.masks.shapes import whole_rle
from sync.rounds.replaced import clicks_left, is_proposal, replaced_proposals

__all__ = [
    "drawn_masks",
    "fits",
    "is_tagged_only",
    "lacks_masks",
    "plain_rle",
    "read_annotation",
    "region_rows",
    "tags_of",
]


@dataclass(frozen=True, slots=True)
class ReadAnnotation:
    """Rows of an annotation, and how many clicks in it were never accepted."""

    rows: list[dict[str, Any]]
    clicks_left: int = 0


def region_rows(config: LabelConfig, result: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``read_annotation``."""
    return read_annotation(config, result).rows


def read_annotation(config: LabelConfig, result: Sequence[Mapping[str, Any]]) -> ReadAnnotation:
    """``{"id", "label", "rle", "box_xyxy"}`` per region that a person left; clicks and leftovers are dropped.

    A proposal that an accepted click replaced is dropped too; the row of the click then has ``replaced``, the
    list of their ids (see ``sync.rounds.replaced``).

    A box that was drawn rotated has ``rotated`` too: x and y of its top left corner, width, height in pixels,
    and degrees clockwise about that corner. A label of the whole picture (a choice) is a row with ``rle`` and
    ``box_xyxy`` None.

    Raises BadRegion when a region of an output tag or a choice cannot be read, when everything was made with
    tags that the config does not have (it must not pass for a picture without objects), or when two regions
    were drawn on images of different sizes: half of a task's objects would teach the model that the others
    are background.
    """
    parsed = parse_annotation(result, config)
    for dropped in parsed.dropped:
        if dropped.broken:
            name = dropped.id or "without id"
            raise BadRegion(dropped.reason, field=f"result[{dropped.index}] (region {name})")
    if not parsed.regions and not parsed.choices:
        for dropped in parsed.dropped:
            if dropped.foreign:
                raise BadRegion(
                    dropped.reason,
                    field=f"result[{dropped.index}]",
                    hint="The label config lost the tag; put it back, or annotate again",
                )
    replaced = replaced_proposals(parsed.regions, config)
    gone = {identity for ids in replaced.values() for identity in ids}
    rows: list[dict[str, Any]] = [
        {
            "id": region.id,
            "label": region.label,
            "rle": plain_rle(region.rle),
            "box_xyxy": [round(float(x), 2) for x in region.box_xyxy],
        }
        | ({"rotated": [round(float(x), 3) for x in region.rotated]} if region.rotated else {})
        | ({"replaced": replaced[region.id]} if region.id in replaced else {})
        for region in parsed.regions
        if not (region.id in gone and is_proposal(region))
    ]
    sizes = {tuple(row["rle"]["size"]) for row in rows}
    if len(sizes) > 1:
        raise BadRegion(
            f"regions of one task have different image sizes: {sorted(sizes)}",
            field="result",
            hint="The image behind this task was replaced; draw its regions again",
        )
    return ReadAnnotation(rows + _tag_rows(config, parsed), clicks_left(parsed))


def _tag_rows(config: LabelConfig, parsed: ParsedAnnotation) -> list[dict[str, Any]]:
    rows = []
    for target in config.targets:
        for value in dict.fromkeys(parsed.choices.get(target.tags.name, ()) if target.tags else ()):
            try:
                label = target.label_of(value)
            except KeyError:
                raise BadRegion(
                    f"choice {value!r} is not in the label config",
                    field=f"choices of {target.tags.name if target.tags else ''}",
                    hint=f"Known choices: {', '.join(target.value(label) for label in target.labels)}",
                ) from None
            rows.append({"id": "", "label": label, "rle": None, "box_xyxy": None})
    return rows


def is_tagged_only(config: LabelConfig, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these rows only say what a picture shows, in a project that wants to know where it is."""
    return any(target.sought for target in config.wanted) and all(row["rle"] is None for row in rows)


def lacks_masks(wanted: Sequence[Wanted], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a tag says that something is there of which nobody drew a mask: the truth is not known then."""
    places = {label for target in wanted for label in target.sought}
    drawn = {str(row["label"]) for row in rows if row["rle"] is not None}
    return bool((set(tags_of(rows)) & places) - drawn)


def tags_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels of the whole picture among the rows of an annotation."""
    return [str(row["label"]) for row in rows if row["rle"] is None]


def drawn_masks(
    wanted: Sequence[Wanted], rows: Sequence[Mapping[str, Any]], hw: tuple[int, int]
) -> list[LabelledMask]:
    """What a model should find on a picture of size ``hw`` that was annotated like this.

    Drawn regions become instances as their kind says: one per object, a box around it, or one per label. A
    class becomes an instance that covers the picture. Rows of labels that nobody wants any more, and
    tags that only say what is somewhere in the picture, are left out.
    """
    found: list[LabelledMask] = []
    for target in wanted:
        mine = [row for row in rows if row["label"] in target.labels]
        if target.is_of.unit == "picture":
            found += [(str(row["label"]), whole_rle(hw)) for row in mine if row["rle"] is None]
        else:
            drawn = [(str(row["label"]), row["rle"]) for row in mine if row["rle"] is not None]
            found += target.is_of.to_instances(drawn)
    return found


def fits(rows: Sequence[Mapping[str, Any]], hw: tuple[int, int]) -> bool:
    """Whether all regions were drawn on a picture of this (height, width)."""
    return all(row["rle"] is None or tuple(row["rle"]["size"]) == tuple(hw) for row in rows)


def plain_rle(rle: Rle) -> dict[str, Any]:
    """The RLE as JSON, ``{"size": [height, width], "counts": str}``, checked. Raises BadInput."""
    return parse_rle(rle)
