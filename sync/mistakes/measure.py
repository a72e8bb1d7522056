"""What a judge says against one task's annotation: raw findings, before the whole project is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from clustering.arrays import Floats
from clustering.mistakes import FINE, NOTHING, SWAPPED, UNSURE, object_differences
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.instances import Rle
from ml_backend.kinds.base import LabelledMask
from ml_backend.kinds.registry import Wanted
from ml_backend.kinds.segmentation import one_per_label
from ml_backend.masks.components import MIN_COMPONENT_PX, components
from ml_backend.masks.rle import decode_rle, encode_mask, rle_area, rle_box, rle_iou
from ml_backend.masks.shapes import boxes_of, union_rle
from sync.rounds.region_rows import tags_of

__all__ = ["BINS", "Measured", "Raw", "measure_task"]

BINS: Final = 20
"""of confidence, in which agreeing predictions are counted"""
_GOOD_AREA: Final = 0.7
"""IoU of drawn and found area from which on it says nothing against the drawn one"""
_NOTHING_FOUND: Final = 0.3
"""score of a drawn part where nothing was found at all"""
_MOST: Final = 200
"""differences of each kind that are kept of a task, the strongest. With one limit for all kinds together, a
picture on which the model misses many objects would have no place for those that people overlooked"""
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Raw:
    """One thing that a judge says against an annotation.

    ``strength``: how sure the model is of the difference (the score itself, for areas). ``agree`` is the IoU
    of what was drawn and found (-1: none was found), ``sure`` how sure the model is of what it found.
    """

    kind: str
    strength: float
    label: str
    other: str
    region: str
    box: Box
    agree: float = -1.0
    sure: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """All about one task.

    Attributes
    ----------
    raw : differences, the strongest first
    drawn : drawn objects by label
    agreed : predictions that agree with a drawn object, by label and bin of their confidence
    probability, given : of classes of the whole picture
    """

    hw: tuple[int, int]
    raw: tuple[Raw, ...] = ()
    drawn: Mapping[str, int] = field(default_factory=dict)
    agreed: Mapping[str, list[int]] = field(default_factory=dict)
    probability: Mapping[str, float] = field(default_factory=dict)
    given: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As plain values, see ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """The value back from ``as_json``. Raises KeyError or TypeError when it is none."""
        raw = tuple(Raw(**{**row, "box": tuple(row["box"])}) for row in value["raw"])
        height, width = value["hw"]
        return cls(
            (int(height), int(width)),
            raw,
            {str(label): int(n) for label, n in value["drawn"].items()},
            {str(label): [int(n) for n in bins] for label, bins in value["agreed"].items()},
            {str(label): float(p) for label, p in value["probability"].items()},
            tuple(str(label) for label in value["given"]),
        )


def measure_task(
    wanted: Sequence[Wanted],
    rows: Sequence[Mapping[str, Any]],
    found: PoolTable,
    hw: tuple[int, int],
    *,
    labels: Sequence[str],
    shown_from: float,
) -> Measured:
    """Compare an annotation with what a judge found on the same picture.

    Parameters
    ----------
    rows : regions of the annotation, see ``sync.rounds.region_rows``
    found : the judge's instances of this task
    hw : size of the picture, the same as of the regions
    labels : the labels that the judge knows; others are left out
    shown_from : score from which on an area counts as found
    """
    raw: list[Raw] = []
    counted: dict[str, int] = {}
    agreed: dict[str, list[int]] = {}
    probability: dict[str, float] = {}
    for target in wanted:
        names = [label for label in target.labels if label in set(labels)]
        mine = found.take(np.flatnonzero(np.isin(found.label.astype(str), names)))
        if target.is_of.unit == "picture":
            probability |= _probabilities(target, names, mine)
            continue
        drawn = [row for row in rows if row["label"] in names and row["rle"] is not None]
        if target.is_of.whole_labels:
            raw += _areas(names, drawn, mine, shown_from)
        else:
            raw += _objects(target, names, drawn, mine, counted, agreed)
    return Measured(hw, tuple(_strongest(raw)), counted, agreed, probability, tuple(tags_of(rows)))


def _strongest(raw: Sequence[Raw]) -> list[Raw]:
    """The strongest of each kind, the strongest first."""
    kept: list[Raw] = []
    of_kind: Counter[str] = Counter()
    for one in sorted(raw, key=lambda one: -one.strength):
        of_kind[one.kind] += 1
        if of_kind[one.kind] <= _MOST:
            kept.append(one)
    return kept


def _probabilities(target: Wanted, names: Sequence[str], found: PoolTable) -> dict[str, float]:
    """Probability of each class. A single choice comes with the likeliest class alone: the others share what
    is left, which is exact for two classes."""
    said = {str(label): float(p) for label, p in zip(found.label, found.score, strict=True)}
    if not target.exclusive or not said:
        return {name: said.get(name, 0.0) for name in names}
    others = [name for name in names if name not in said]
    rest = max(0.0, 1.0 - sum(said.values())) / max(len(others), 1)
    return said | dict.fromkeys(others, rest)


def _objects(
    target: Wanted,
    names: Sequence[str],
    drawn: Sequence[Mapping[str, Any]],
    found: PoolTable,
    counted: dict[str, int],
    agreed: dict[str, list[int]],
) -> list[Raw]:
    number = {label: i for i, label in enumerate(names)}
    masks: list[LabelledMask] = target.is_of.to_instances([(str(r["label"]), r["rle"]) for r in drawn])
    there = [rle for _, rle in masks]
    seen = [found.rle(i) for i in range(len(found))]
    shapes = (_as_boxes(seen), _as_boxes(there)) if target.is_of.unit == "box" else (seen, there)
    sure = found.score.astype(np.float64)
    iou = _iou(*shapes)
    said = object_differences(
        iou,
        _iou(*shapes, crowd=True),
        _iou(shapes[0], shapes[0]),
        np.array([number[str(name)] for name in found.label], np.int64),
        sure,
        np.array([number[name] for name, _ in masks], np.int64),
    )
    for name, _ in masks:
        counted[name] = counted.get(name, 0) + 1
    for i in np.flatnonzero(said.agrees).tolist():
        bins = agreed.setdefault(str(found.label[i]), [0] * BINS)
        bins[min(int(sure[i] * BINS), BINS - 1)] += 1
    raw = [
        Raw("overlooked", float(sure[i]), str(found.label[i]), "", "", _box(seen[i]), -1.0, float(sure[i]))
        for i in np.flatnonzero(said.overlooked > 0).tolist()
    ]
    for j in np.flatnonzero(said.drawn != FINE).tolist():
        name, by, strength = masks[j][0], int(said.by[j]), float(said.strength[j])
        region, box = str(drawn[j]["id"]), _box(there[j])
        if said.drawn[j] == NOTHING:
            raw.append(Raw("nothing", strength, name, "", region, box))
            continue
        kind, other = ("swapped", str(found.label[by])) if said.drawn[j] == SWAPPED else ("placed", "")
        raw.append(Raw(kind, strength, name, other, region, box, float(iou[by, j]), float(sure[by])))
    return raw


def _areas(
    names: Sequence[str], drawn: Sequence[Mapping[str, Any]], found: PoolTable, shown_from: float
) -> list[Raw]:
    """Areas of classes, component by component as in Rottmann and Reese (2023, WACV, "Automated detection of
    label errors in semantic segmentation datasets"): parts that are missing or too much, else outlines that
    differ."""
    is_drawn = dict(one_per_label([(str(row["label"]), row["rle"]) for row in drawn]))
    shown = np.flatnonzero(found.score >= shown_from)
    is_found = dict(one_per_label([(str(found.label[i]), found.rle(int(i))) for i in shown]))
    raw: list[Raw] = []
    for name in names:
        mine, theirs = is_drawn.get(name), is_found.get(name)
        if mine is None and theirs is None:
            continue
        sure = float(found.score[shown][found.label[shown].astype(str) == name].max(initial=0.0))
        elsewhere = {other: rle for other, rle in is_found.items() if other != name}
        parts = _missing(name, theirs, mine, sure) + _too_much(name, mine, theirs, elsewhere)
        raw += [part for part in parts if part.strength >= UNSURE]
        if mine is None or theirs is None:
            continue
        agree = float(rle_iou([mine], [theirs])[0, 0])
        whole = float(np.clip((_GOOD_AREA - agree) / _GOOD_AREA, 0.0, 1.0)) * sure
        if whole > max([part.strength for part in parts], default=UNSURE):
            region = next(str(row["id"]) for row in drawn if row["label"] == name)
            differ = components(encode_mask(decode_rle(mine) ^ decode_rle(theirs)))
            raw.append(Raw("area", whole, name, "", region, _box(differ[0] if differ else mine), agree, sure))
    return raw


def _missing(name: str, theirs: Rle | None, mine: Rle | None, sure: float) -> list[Raw]:
    """Parts that were found and not drawn."""
    if theirs is None:
        return []
    parts = components(theirs)
    covered = _iou(parts, [mine], crowd=True)[:, 0] if mine is not None else np.zeros(len(parts))
    return [
        Raw("area", float(sure * (1.0 - c)), name, name, "", _box(part), -1.0, sure)
        for part, c in zip(parts, covered, strict=True)
    ]


def _too_much(name: str, mine: Rle | None, theirs: Rle | None, others: Mapping[str, Rle]) -> list[Raw]:
    """Parts that were drawn and not found; with the class that was found there instead, if any."""
    if mine is None:
        return []
    parts = components(mine)
    covered = _iou(parts, [theirs], crowd=True)[:, 0] if theirs is not None else np.zeros(len(parts))
    rest = union_rle(list(others.values())) if others else None
    raw = []
    for part, c in zip(parts, covered, strict=True):
        score, instead = _NOTHING_FOUND * float(1.0 - c), ""
        if rest is not None and (share := _iou([part], list(others.values()), crowd=True)[0]).max() > 0.5:
            instead, score = list(others)[int(share.argmax())], float(1.0 - c) * float(share.max())
        if rle_area(part) >= MIN_COMPONENT_PX:
            raw.append(Raw("area", score, name, instead, "", _box(part), float(c)))
    return raw


def _iou(first: Any, second: Any, *, crowd: bool = False) -> Floats:
    """(n, m) IoU of masks or boxes; with ``crowd`` the share of each of the first that lies in the second."""
    n, m = len(first), len(second)
    if not n or not m:
        return np.zeros((n, m))
    return np.asarray(coco.iou(first, second, [int(crowd)] * m), np.float64).reshape(n, m)


def _as_boxes(masks: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """(n, 4) boxes of masks as x, y, width, height."""
    boxes = boxes_of(masks).astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _box(rle: Rle) -> Box:
    x0, y0, x1, y1 = rle_box(rle)
    return float(x0), float(y0), float(x1), float(y1)
