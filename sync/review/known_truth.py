"""Whether a mask that people are asked about is good, where somebody drew everything on its picture."""

from __future__ import annotations

from collections.abc import Sequence

from pycocotools import mask as coco
from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_backend.kinds.base import ProjectKind
from ml_backend.kinds.registry import Wanted
from ml_backend.label_studio.label_config import LabelConfig
from sync.review.question import HIDDEN
from sync.rounds.region_rows import drawn_masks
from sync.rounds.task_queries import effective_annotation
from sync.store.tables import AnnotationRecord, QuestionRecord, TaskRecord

__all__ = ["is_good_mask", "known_truth"]


def is_good_mask(
    rle: dict[str, object],
    label: str,
    regions: Sequence[dict[str, object]],
    wanted: Wanted,
    kind: ProjectKind,
) -> bool:
    """Whether a mask lies well enough on one of its label that was drawn on the same picture.

    ``regions`` are those of an annotation as the store keeps them.
    """
    size = rle["size"]
    assert isinstance(size, list | tuple)
    hw = (int(size[0]), int(size[1]))
    rows = [row for row in regions if _fits(row, hw)]
    drawn = [mask for name, mask in drawn_masks([wanted], rows, hw) if name == label]
    return bool(drawn) and float(coco.iou([rle], drawn, [0] * len(drawn)).max()) > kind.good_iou


def _fits(row: dict[str, object], hw: tuple[int, int]) -> bool:
    rle = row["rle"]
    return rle is None or (isinstance(rle, dict) and tuple(rle["size"]) == hw)


def known_truth(session: Session, config: LabelConfig, question: QuestionRecord) -> bool | None:
    """Whether the mask of a question is good; None while nobody has drawn everything on its picture.

    Hidden repeats are not told about: that somebody is asked twice should not be noticed.
    """
    task = session.get(TaskRecord, question.task_id)
    if task is None or not task.finished or task.tagged_only or question.repeat >= HIDDEN:
        return None
    if question.label not in config.labels:
        return None
    rows = session.scalars(select(AnnotationRecord).where(AnnotationRecord.task_id == task.id))
    speaks = effective_annotation(rows)
    if speaks is None or speaks.broken:
        return None
    target = config.target_of(question.label)
    return is_good_mask(question.rle, question.label, speaks.regions, target.wanted, target.is_of)
