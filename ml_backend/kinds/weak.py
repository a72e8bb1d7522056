"""Weak: people say what a picture shows, the software finds where (Li et al., IJCAI 2023)."""

from __future__ import annotations

from typing import Final

from ml_backend.kinds.base import ProjectKind

__all__ = ["WEAK"]

WEAK: Final = ProjectKind(
    name="weak",
    unit="mask",
    wants="one mask per object, from tags of whole pictures",
    learners=("cim",),
    good_iou=0.75,
    same_iou=0.75,
    question="Is this a good mask of one {label}?",
    headline="AP50",
    exports=("coco",),
    tagged=True,
)
