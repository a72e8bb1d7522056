"""Segmentation: one mask per class, whatever the number of objects.

People are asked about the whole mask of a class on a picture (kind ``segmentation``), or about each of its
connected parts (kind ``components``): many small questions whose answers are easy, where a whole mask is
seldom right everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ml_backend.kinds.base import LabelledMask, ProjectKind
from ml_backend.masks.components import components
from ml_backend.masks.shapes import union_rle

__all__ = ["COMPONENTS", "SEGMENTATION", "one_per_component", "one_per_label"]


def one_per_label(masks: Sequence[LabelledMask]) -> list[LabelledMask]:
    """The union of the masks of each label, in the order in which the labels first appear."""
    by_label: dict[str, list[LabelledMask]] = {}
    for label, rle in masks:
        by_label.setdefault(label, []).append((label, rle))
    return [(label, union_rle([rle for _, rle in parts])) for label, parts in by_label.items()]


def one_per_component(masks: Sequence[LabelledMask]) -> list[LabelledMask]:
    """The connected components of the union of the masks of each label; specks are left out."""
    return [(label, part) for label, union in one_per_label(masks) for part in components(union)]


SEGMENTATION: Final = ProjectKind(
    name="segmentation",
    unit="mask",
    wants="one mask per class",
    learners=("deeplabv3",),
    good_iou=0.75,
    same_iou=2.0,
    question="Is everything that is {label} outlined, and nothing else?",
    good_one="well outlined as {label}",
    check="an outline around everything of the named class, and around nothing else; small wobbles are fine. "
    "Wrong is: a clear part is missing, or much is outlined that is something else",
    drawn_s=80.0,  # as one mask of COCO: Lin et al. 2014
    headline="IoU",
    exports=("coco", "masks", "yolo", "voc", "parquet"),
    to_instances=one_per_label,
    whole_labels=True,
    learner_options={"unit": "mask"},
)

COMPONENTS: Final = ProjectKind(
    name="components",
    unit="mask",
    wants="one mask per class, judged part by part",
    learners=("deeplabv3",),
    good_iou=0.75,
    same_iou=0.75,
    question="Is the outlined part well outlined as {label}?",
    good_one="a well outlined part of {label}",
    check="one outlined part that belongs to the named class, and the outline follows it; small wobbles are "
    "fine. Wrong is: something else, or an outline far from the edge of the part",
    drawn_s=80.0,  # as one mask of COCO: Lin et al. 2014
    headline="IoU",
    exports=("coco", "masks", "yolo", "voc", "parquet"),
    to_instances=one_per_component,
    whole_labels=True,
    learner_options={"unit": "component"},
)
