"""Instances: one mask per object."""

from __future__ import annotations

from typing import Final

from ml_backend.kinds.base import ProjectKind

__all__ = ["INSTANCES"]

INSTANCES: Final = ProjectKind(
    name="instances",
    unit="mask",
    wants="one mask per object",
    learners=("maskrcnn", "detectron2"),
    good_iou=0.75,
    same_iou=0.75,
    question="Is this a good mask of one {label}?",
    headline="AP",
    exports=("coco",),
)
