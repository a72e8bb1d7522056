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
    question="Is the outlined object a good {label}?",
    good_one="a good {label}",
    check="one outlined object, and the outline follows it; small wobbles are fine. Wrong is: something "
    "else, only a part of the object, or several objects together",
    drawn_s=80.0,  # Lin et al. 2014, COCO
    headline="AP50",
    exports=("coco", "masks", "yolo", "voc", "parquet"),
    tagged=True,
)
