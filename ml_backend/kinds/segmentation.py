"""Segmentation: one mask per class, whatever the number of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ml_backend.kinds.base import LabelledMask, ProjectKind
from ml_backend.masks.shapes import union_rle

__all__ = ["SEGMENTATION", "one_per_label"]


def one_per_label(masks: Sequence[LabelledMask]) -> list[LabelledMask]:
    """The union of the masks of each label, in the order in which the labels first appear."""
    by_label: dict[str, list[LabelledMask]] = {}
    for label, rle in masks:
        by_label.setdefault(label, []).append((label, rle))
    return [(label, union_rle([rle for _, rle in parts])) for label, parts in by_label.items()]


SEGMENTATION: Final = ProjectKind(
    name="segmentation",
    unit="mask",
    wants="one mask per class",
    learners=("deeplabv3",),
    good_iou=0.75,
    same_iou=2.0,
    question="Is everything that is {label} outlined, and nothing else?",
    good_one="well outlined as {label}",
    check="everything of its name is outlined, and nothing else; small wobbles are fine. Wrong is: a clear "
    "part is missing, or much is outlined that is something else",
    drawn_s=80.0,  # as one mask of COCO: Lin et al. 2014
    headline="IoU",
    exports=("coco", "png"),
    to_instances=one_per_label,
)
