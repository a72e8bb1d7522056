"""Instances as columns: the form in which learners, pools and regions pass them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["NO_FEATURE", "Instances", "Rle"]

Rle = dict[str, object]
"""COCO RLE: ``{"size": [height, width], "counts": str}`` (compressed counts, ASCII str, JSON-ready)."""

NO_FEATURE: npt.NDArray[np.float32] = np.zeros(0, np.float32)
"""The feature of a picture whose model gives none."""


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The n instances found on one image. Columns of equal length; masks stay RLE.

    A box is an instance whose mask is the filled box, and a label of the whole picture (a class) is one whose
    mask covers the picture.

    Attributes
    ----------
    label : (n,) int64, index into the model's list of labels (0-based, no background)
    box_xyxy : (n, 4) float32, pixels of the original image
    rle : n COCO RLE masks at the size of the original image
    score : (n,) float32 in 0..1, class confidence; 1 = certain
    quality : (n,) float32 in 0..1, predicted IoU of the mask with the true one; 1 = perfect
    embedding : (n, d) float32, mask-attention RoI features (d may be 0)
    doubts : how uncertain the model is of the picture as a whole, by the name of the measure (``entropy``,
        ``margin``, …); each in 0..1, 1 = as uncertain as possible. Empty: measured from the instances alone.
    feature : (f,) float32, what the picture looks like to the model; f may be 0
    """

    label: npt.NDArray[np.int64]
    box_xyxy: npt.NDArray[np.float32]
    rle: Sequence[Rle]
    score: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    doubts: Mapping[str, float] = field(default_factory=dict)
    feature: npt.NDArray[np.float32] = field(default_factory=lambda: NO_FEATURE)

    def __post_init__(self) -> None:
        n = len(self.label)
        lengths = {
            "box_xyxy": len(self.box_xyxy),
            "rle": len(self.rle),
            "score": len(self.score),
            "quality": len(self.quality),
            "embedding": len(self.embedding),
        }
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong:
            raise ValueError(f"all columns must have the length of label ({n}), got {wrong}")

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def empty(cls, dim: int = 0) -> Instances:
        return cls(
            np.zeros(0, np.int64),
            np.zeros((0, 4), np.float32),
            [],
            np.zeros(0, np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, dim), np.float32),
        )

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Instances:
        """Rows by index or boolean mask, all columns together."""
        where = np.flatnonzero(index) if index.dtype == bool else index
        return Instances(
            self.label[where],
            self.box_xyxy[where],
            [self.rle[int(i)] for i in where],
            self.score[where],
            self.quality[where],
            self.embedding[where],
            self.doubts,
            self.feature,
        )
