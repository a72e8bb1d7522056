"""From a model's masks of one task to the prediction that Label Studio gets.

The backend answers ``/predict`` with these predictions and the worker pushes them. Both call
``make_prediction``, so both show the same masks: accepted ones marked, rejected ones left out (but for masks
of a whole class, which people correct), undecided ones from a class score on, one mask per object, and no
piles of boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_backend.artifacts.other_class import with_other_classes
from ml_backend.artifacts.pool_tables import PoolTable, instance_key
from ml_backend.artifacts.verdicts import Verdict
from ml_backend.box_density import within_density
from ml_backend.instances import Instances
from ml_backend.kinds.base import ProjectKind
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.why_line import why_items
from ml_backend.masks.edges import EDGES
from ml_backend.masks.rle import rle_area, rle_iou

__all__ = ["TaskPrediction", "best_of_each_object", "make_prediction", "table_of", "usable_instances"]


@dataclass(frozen=True, slots=True)
class TaskPrediction:
    """``result`` and ``score`` of a prediction, ready for Label Studio. ``score`` is in 0..1."""

    result: list[dict[str, Any]]
    score: float


def make_prediction(
    rows: PoolTable,
    config: LabelConfig,
    hw: tuple[int, int],
    verdicts: Mapping[str, Verdict],
    *,
    round_number: int,
    min_score: float,
    score: float,
    max_tags_per_pixel: int | None = None,
    why: str = "",
) -> TaskPrediction:
    """The prediction of one task.

    Parameters
    ----------
    rows : the task's masks, as they stand in the pool or as ``table_of`` makes them
    config : masks of labels it does not know are left out
    hw : (height, width) of the image
    verdicts : what was decided, by instance key
    round_number : the round they belong to
    min_score : class score from which undecided masks are shown
    score : the place of the task in the order, lowest first; clipped to 0..1, 0 when not a number
    max_tags_per_pixel : how many boxes may lie on one pixel; 0: any number, None: as usual for the kind.
        Undecided ones beyond that are left out, those of low score first
    why : the line that tells people why the task comes now; shown where the config has a place for it

    Raises BadLabelConfig and BadRegion, as ``to_result`` does.
    """
    rows, others = with_other_classes(rows, verdicts, config.wanted)
    known = set(config.labels)
    # a mask of all that is of a label is seldom all wrong: a rejected one is where somebody starts to correct
    correctable = {label for label in known if config.kind_of(label).one_per_label}
    decided = [others.get(str(key)) or verdicts.get(str(key)) for key in rows.key]
    found = [
        None if verdict is not None and verdict.verdict < 0 and str(label) in correctable else verdict
        for verdict, label in zip(decided, rows.label, strict=True)
    ]
    keep = [
        i
        for i, verdict in enumerate(found)
        if str(rows.label[i]) in known
        and (verdict.verdict > 0 if verdict is not None else rows.score[i] >= min_score)
        and rle_area(rows.rle(i)) > 0
    ]
    kinds = {label: config.kind_of(label) for label in known}
    keep = best_of_each_object(rows, keep, found, kinds)
    keep = _one_class(rows, keep, found, config)
    keep = _without_piles(rows, keep, found, kinds, max_tags_per_pixel)
    kept = rows.take(np.array(keep, np.intp))
    result = to_result(
        kept.instances(config.labels),
        config,
        hw,
        labels=config.labels,
        keys=[str(key) for key in kept.key],
        meta=[None if (v := found[i]) is None else v.meta(round_number) for i in keep],
    )

    whole = float(np.nan_to_num(score))
    result += why_items(config.xml, why)
    return TaskPrediction(result, min(max(whole, 0.0), 1.0))


def best_of_each_object(
    rows: PoolTable, keep: list[int], found: Sequence[Verdict | None], kinds: Mapping[str, ProjectKind]
) -> list[int]:
    """``keep`` without undecided masks that lie on a better one: the detector may name an object twice.

    Two masks are of one object when their IoU exceeds the ``same_iou`` of their kind. An accepted mask goes
    before an undecided one, then the higher score; accepted masks always stay. ``kinds`` are those of the
    labels.
    """
    order = sorted(keep, key=lambda i: (found[i] is None, -float(rows.score[i])))
    same_iou = np.array([kinds[str(rows.label[i])].same_iou for i in order], np.float64)
    compared = [place for place in range(len(order)) if same_iou[place] <= 1.0]
    masks = [rows.rle(order[place]) for place in compared]
    overlap = np.zeros((len(order), len(order)))
    overlap[np.ix_(compared, compared)] = rle_iou(masks, masks)
    same = (overlap > same_iou[:, None]) & (same_iou[:, None] == same_iou[None])
    best: list[int] = []
    for place, i in enumerate(order):
        if found[i] is not None or not same[place, best].any():
            best.append(place)
    return sorted(order[place] for place in best)


def _one_class(
    rows: PoolTable, keep: list[int], found: Sequence[Verdict | None], config: LabelConfig
) -> list[int]:
    """``keep`` with one class only where a picture has just one: an accepted one first, then by score."""
    for target in config.wanted:
        if not target.exclusive or target.is_of.unit != "picture":
            continue
        mine = [i for i in keep if str(rows.label[i]) in target.labels]
        best = min(mine, key=lambda i: (found[i] is None, -float(rows.score[i])), default=None)
        keep = [i for i in keep if i not in mine or i == best]
    return keep


def _without_piles(
    rows: PoolTable,
    keep: list[int],
    found: Sequence[Verdict | None],
    kinds: Mapping[str, ProjectKind],
    at_most: int | None,
) -> list[int]:
    """``keep`` without undecided boxes on pixels that lie in ``at_most`` boxes of their kind already.

    None: as many as the kind says. Labels of whole pictures are no boxes.
    """
    for kind in {kind.name: kind for kind in kinds.values() if kind.unit != "picture"}.values():
        most = kind.max_tags_per_pixel if at_most is None else at_most
        mine = [i for i in keep if kinds[str(rows.label[i])].name == kind.name]
        if not most or not mine:
            continue
        table = rows.take(np.array(mine, np.intp))
        accepted = [place for place, i in enumerate(mine) if found[i] is not None]
        kept = within_density(table.box_xyxy, table.score, at_most=most, always=accepted)
        gone = set(mine) - {mine[place] for place in kept}
        keep = [i for i in keep if i not in gone]
    return keep


def usable_instances(instances: Instances) -> Instances:
    """What a model found, fit for a pool: finite numbers, and no exact repetition.

    Two instances of the same label and mask would share one key. A score, quality or embedding that is not
    finite comes from a model that diverged on the image.
    """
    first: dict[tuple[int, object], int] = {}
    for i, (label, rle) in enumerate(zip(instances.label.tolist(), instances.rle, strict=True)):
        first.setdefault((label, rle["counts"]), i)
    distinct = instances.take(np.array(sorted(first.values()), np.intp))
    finite = np.isfinite(distinct.embedding).all(axis=1)
    finite &= np.isfinite(distinct.score) & np.isfinite(distinct.quality)
    return distinct.take(finite)


def table_of(task_id: int, instances: Instances, labels: Sequence[str], hw: tuple[int, int]) -> PoolTable:
    """Instances of one task as the rows that a pool would hold of them.

    ``labels`` are the names of ``instances.label``; ``hw`` is (height, width) of the image. The
    ``edges`` are zeros: only pools need them.
    """
    names = [labels[int(i)] for i in instances.label]
    counts = [str(rle["counts"]) for rle in instances.rle]
    n = len(names)
    return PoolTable(
        key=np.array([instance_key(task_id, *x) for x in zip(names, counts, strict=True)], object),
        task_id=np.full(n, task_id, np.int64),
        label=np.array(names, object),
        box_xyxy=instances.box_xyxy,
        counts=np.array(counts, object),
        hw=np.tile(np.array(hw, np.int32), (n, 1)),
        score=instances.score,
        quality=instances.quality,
        embedding=instances.embedding,
        edges=np.zeros((n, len(EDGES)), np.float32),
    )
