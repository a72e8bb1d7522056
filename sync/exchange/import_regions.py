"""Rows of a file as regions and choices of a project: each label goes where its target wants it.

A mask project gets masks, a box project boxes (also around masks), a project of classes the names of what a
picture shows. Where there are several targets, each label follows its own.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ml_backend.errors import BadInput, GroundswellError
from ml_backend.instances import Rle
from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.label_studio.region_check import validate_result
from ml_backend.label_studio.region_writer import render
from ml_backend.label_studio.regions import Region, region_id
from ml_backend.label_studio.targets import Target
from ml_backend.masks.coco import segmentation_to_rle
from ml_backend.masks.components import components
from ml_backend.masks.rle import rle_area, rle_box
from ml_backend.masks.shapes import box_rle, whole_rle
from sync.exchange.readers.rows import Problem, ProblemKind, Row, Shape

__all__ = ["Converted", "LabelNames", "convert"]

_OUTSIDE_PX: Final = 1.0
"""how far a box may leave the picture: writers count pixels from 0 or from 1"""
_CLOSE: Final = 0.9
"""a polygon whose IoU with its mask is below this is mentioned"""
_OUTLINE_PX: Final = 0.5
"""how far a polygon may be from the mask that was given"""


class LabelNames:
    """What labels of the files are called in the project.

    ``renamed`` maps their names to ours, to an empty text where a label is to be left out; other labels keep
    their names. Raises BadInput when a name of ours is none of the project's labels.
    """

    def __init__(self, labels: Sequence[str], renamed: Mapping[str, str]) -> None:
        self._labels = tuple(labels)
        self._renamed = dict(renamed)
        for theirs, ours in renamed.items():
            if ours and ours not in self._labels:
                raise BadInput(
                    f"{theirs}={ours}: the project has no label {ours!r}",
                    field="map",
                    hint=f"Its labels: {', '.join(labels)}",
                )

    @property
    def known(self) -> tuple[str, ...]:
        """Names that the files may use, those of the project first and in its order."""
        return tuple(dict.fromkeys((*self._labels, *self._renamed)))

    def ours(self, theirs: str) -> str:
        """The project's label, empty for one to leave out. Raises BadInput for an unknown one."""
        found = self._renamed.get(theirs, theirs)
        if found and found not in self._labels:
            raise BadInput(
                f"the project has no label {theirs!r}",
                field="label",
                hint=f'Say what it is: --map "{theirs}=…"',
            )
        return found


@dataclass(frozen=True, slots=True)
class Converted:
    """Results for Label Studio, the labels that the rows speak of, the mean score, and what went wrong."""

    result: list[dict[str, Any]]
    labels: frozenset[str]
    score: float | None
    problems: Sequence[Problem]

    @property
    def rejected(self) -> bool:
        """Whether a row is missing that should be there."""
        return any(problem.kind == "rejected" for problem in self.problems)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A row with its place in the project: regions of ``control``, or a choice of it."""

    row: Row
    control: ControlTag
    regions: Sequence[Region]


def convert(
    rows: Sequence[Row],
    hw: tuple[int, int] | None,
    config: LabelConfig,
    names: LabelNames,
    *,
    file: str,
    picture: str,
    with_scores: bool,
) -> Converted:
    """The rows of one picture of size ``hw`` (height, width; None: not known) as results.

    ``file`` and ``picture`` are named in the problems. The ids of regions follow from what they hold.
    """
    problems: list[Problem] = []
    placed: list[_Placed] = []
    spoken: set[str] = set()

    def note(kind: ProblemKind, row: Row, field: str, reason: str) -> None:
        problems.append(Problem(kind, file, row.where, field, reason, picture))

    for row in rows:
        try:
            label = names.ours(row.label)
            if not label:
                note("left out", row, "label", f"label {row.label!r} is mapped to nothing")
                continue
            spoken.add(label)
            placed.append(_place(row, label, hw, config))
        except GroundswellError as error:
            why = getattr(error, "message", str(error))
            note("rejected", row, error.field or "shape", f"{why}. {error.hint}" if error.hint else why)
    placed = _once(placed, config, note)
    result: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    for control, of_control in _by_control(placed):
        regions: list[Region] = []
        where: list[Row] = []
        for one in of_control:
            for region in one.regions:
                score = one.row.score if with_scores else None
                identity = _identity(region, seen)
                regions.append(replace(region, id=identity, score=score))
                where.append(one.row)
        size = (1, 1) if control.type == "choices" else (hw or (1, 1))
        rendered = render(regions, config, size, output=control, tolerance_px=_OUTLINE_PX)
        if control.type == "choices" and not with_scores:
            for item in rendered.result:
                item.pop("score", None)
        result += rendered.result
        for row, iou in zip(where, rendered.iou, strict=True):
            if control.shape == "polygon" and iou < _CLOSE:
                note("changed", row, "segmentation", f"one polygon covers {iou:.2f} of its mask (IoU)")
    for text in validate_result(result, config):
        problems.append(Problem("rejected", file, "", "result", text, picture))
    scores = [one.row.score for one in placed if one.row.score is not None]
    mean = sum(scores) / len(scores) if scores else None
    return Converted(result, frozenset(spoken), mean, problems)


def _place(row: Row, label: str, hw: tuple[int, int] | None, config: LabelConfig) -> _Placed:
    """Where a row goes. Raises BadInput, BadRegion when it does not fit."""
    if row.score is not None and not 0 <= row.score <= 1:
        raise BadInput(f"the score {row.score:g} is outside 0..1", field="score")
    target = config.target_of(label)
    if row.shape is None or target.is_of.unit == "picture":
        if target.tags is None:
            raise BadInput(
                f"{label!r} is drawn in this project, and the row names a class of the picture", field="label"
            )
        if label not in target.labels or target.value(label) not in target.tags.labels:
            raise BadInput(f"people cannot tag a picture with {label!r} here", field="label")
        tag = Region("", "mask", label, whole_rle((1, 1)), (0.0, 0.0, 1.0, 1.0))
        return _Placed(row, target.tags, [tag])
    if hw is None:
        raise BadInput("the size of the picture is not known", field="size", hint="Give --images FOLDER")
    control, regions = _regions(row.shape, label, hw, target)
    return _Placed(row, control, regions)


def _regions(
    shape: Shape, label: str, hw: tuple[int, int], target: Target
) -> tuple[ControlTag, list[Region]]:
    boxes = [tag for tag in target.outputs if tag.shape == "rectangle" and label in tag.labels]
    masks = [tag for tag in target.outputs if tag.shape != "rectangle" and label in tag.labels]
    if boxes and (not masks or (shape.segmentation is None and shape.box is not None)):
        return boxes[0], _boxes(shape, label, hw)
    if shape.segmentation is None:
        raise BadInput("a box alone is no mask, and the project wants masks", field="segmentation")
    rle = _mask(shape, hw)
    splits = shape.whole_label and not target.is_of.whole_labels
    parts = components(rle, min_area_px=1) if splits else [rle]
    return masks[0], [Region("", "mask", label, part, rle_box(part)) for part in parts]


def _boxes(shape: Shape, label: str, hw: tuple[int, int]) -> list[Region]:
    if shape.rotated:
        x, y, width, height, degrees = (float(value) for value in shape.rotated)
        if not all(map(math.isfinite, (x, y, width, height, degrees))) or width <= 0 or height <= 0:
            raise BadInput("the rotated box has no area", field="bbox")
        rle = _mask(shape, hw)
        return [Region("", "box", label, rle, rle_box(rle), rotated=(x, y, width, height, degrees % 360))]
    if shape.box is None:
        rle = _mask(shape, hw)
        parts = components(rle, min_area_px=1) if shape.whole_label else [rle]
        return [Region("", "box", label, box_rle(rle_box(part), hw), rle_box(part)) for part in parts]
    x0, y0, x1, y1 = _pixels(shape.box, hw, relative=shape.relative)
    height_px, width_px = hw
    if x1 <= x0 or y1 <= y0:
        raise BadInput(f"the box has no area: {x1 - x0:g} × {y1 - y0:g}", field="bbox")
    far = max(-x0, -y0, x1 - width_px, y1 - height_px)
    if far > _OUTSIDE_PX:
        raise BadInput(
            f"the box leaves the picture of {width_px}×{height_px} pixels by {far:.1f}", field="bbox"
        )
    box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width_px)), min(y1, float(height_px)))
    return [Region("", "box", label, box_rle(box, hw), box)]


def _mask(shape: Shape, hw: tuple[int, int]) -> Rle:
    """The mask, not empty. Raises BadInput."""
    found = shape.segmentation
    if shape.relative and isinstance(found, list):
        found = [_pixels(polygon, hw, relative=True) for polygon in found]
    rle = segmentation_to_rle(found, hw)
    if rle_area(rle) == 0:
        raise BadInput("the mask covers no pixel", field="segmentation")
    return rle


def _pixels(values: Sequence[float], hw: tuple[int, int], *, relative: bool) -> list[float]:
    if not all(math.isfinite(value) for value in values):
        raise BadInput("a coordinate is not finite", field="bbox")
    if not relative:
        return [float(value) for value in values]
    return [min(max(value, 0.0), 1.0) * hw[1 - place % 2] for place, value in enumerate(values)]


def _once(placed: Sequence[_Placed], config: LabelConfig, note: Any) -> list[_Placed]:
    """Tags once each, and one only where people may pick one."""
    found: list[_Placed] = []
    tags: dict[str, list[str]] = {}
    for one in placed:
        if one.control.type != "choices":
            found.append(one)
            continue
        label, there = one.regions[0].label, tags.setdefault(one.control.name, [])
        if label in there:
            continue
        if there and not one.control.multiple:
            note("rejected", one.row, "label", f"the picture is {there[0]!r} already, and has one class only")
            continue
        there.append(label)
        found.append(one)
    return found


def _by_control(placed: Sequence[_Placed]) -> list[tuple[ControlTag, list[_Placed]]]:
    found: dict[str, tuple[ControlTag, list[_Placed]]] = {}
    for one in placed:
        found.setdefault(one.control.name, (one.control, []))[1].append(one)
    return list(found.values())


def _identity(region: Region, seen: Counter[str]) -> str:
    """An id that follows from label, mask and box, and from how often they came before."""
    text = f"{region.label}\0{region.rle['counts']}\0{region.box_xyxy}\0{region.rotated}"
    digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    seen[digest] += 1
    return region_id(f"import:{digest}:{seen[digest]}")
