"""Classes: labels of the whole picture, one (a single choice) or several."""

from __future__ import annotations

from typing import Final

from ml_backend.kinds.base import ProjectKind

__all__ = ["CLASSES"]

CLASSES: Final = ProjectKind(
    name="classes",
    unit="picture",
    wants="classes of whole pictures",
    learners=("classifier",),
    good_iou=0.5,  # an instance covers the picture: its IoU with the true one is 1, or there is none
    same_iou=2.0,
    question="Is this picture {label}?",
    good_one="{label}",
    check="a picture of the class that the question names. Wrong is: a picture of something else",
    drawn_s=1.4,  # one key per picture: as a question of Papadopoulos et al., ICCV 2021
    headline="accuracy",
    exports=("csv", "parquet"),
    tagged=True,
)
