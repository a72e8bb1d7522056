"""Boxes: one rectangle per object.

The usual bar for a found box is an IoU of 0.5 (PASCAL VOC, Everingham et al. 2010): a box that people call
right is often off by a few pixels, which costs a small box more than a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ml_backend.kinds.base import LabelledMask, ProjectKind
from ml_backend.masks.rle import rle_box, rle_hw
from ml_backend.masks.shapes import box_rle

__all__ = ["BOXES", "boxes_around"]


def boxes_around(masks: Sequence[LabelledMask]) -> list[LabelledMask]:
    """The filled upright box around each mask; a box that was drawn rotated becomes the box around it."""
    return [(label, box_rle(rle_box(rle), rle_hw(rle))) for label, rle in masks]


BOXES: Final = ProjectKind(
    name="boxes",
    unit="box",
    wants="one box per object",
    learners=("fasterrcnn", "fcos"),
    good_iou=0.5,
    same_iou=0.6,
    question="Is this box a good one around one {label}?",
    good_one="a good box around one {label}",
    check="a box around one object, about as large as the object. Wrong is: something else, a part of the "
    "object, a box far too large or too small, or one box around several objects",
    drawn_s=7.0,  # Papadopoulos et al., ICCV 2017, "Extreme clicking"
    headline="AP50",
    exports=("coco", "yolo", "voc", "parquet"),
    max_tags_per_pixel=2,
    to_instances=boxes_around,
)
