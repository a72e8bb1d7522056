"""A training picture as a bag: its proposals with features, overlaps, tags and what people drew of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_backend.examples import Example
from ml_backend.instances import Rle
from ml_backend.learners.weak.candidates import Crop
from ml_backend.learners.weak.maps import Words, overlap_maps, unpack
from ml_backend.learners.weak.proposals import Proposals
from ml_backend.masks.rle import rle_area, rle_box, rle_hw

__all__ = ["Bag", "Drawn", "drawn_of", "is_big", "make_bag"]

_POINT_SHARE, _POINT_PX = 2e-4, 25
_BIG_COVER, _BIG_SHARE = 0.85, 0.9

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What people drew on a picture: masks, and points (masks too small to be an outline).

    ``masks``: (label, mask); ``points``: (label, x, y) as shares of width and height.
    """

    masks: tuple[tuple[int, Rle], ...] = ()
    points: tuple[tuple[int, float, float], ...] = ()


def drawn_of(example: Example) -> Drawn:
    """Masks and points of an example. A mask of at most 25 pixels, or of 1/5000 of the picture, is a point;
    empty masks are left out."""
    masks, points = [], []
    for label, rle in zip(example.label, example.rle, strict=True):
        area = rle_area(rle)
        height, width = rle_hw(rle)
        if area == 0:
            continue
        if area <= max(_POINT_PX, _POINT_SHARE * height * width):
            x0, y0, x1, y1 = rle_box(rle)
            points.append((label, (x0 + x1) / 2 / width, (y0 + y1) / 2 / height))
        else:
            masks.append((label, rle))
    return Drawn(tuple(masks), tuple(points))


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """One training picture with n proposals and C labels.

    Attributes
    ----------
    features : (n, f) float32, not scaled
    prior : (n,) float32, objectness
    iou : (n, n) float16; cover : (n, n) float16, cover[i, j] = |i ∩ j| / |j|
    big : (n,) bool, covers nearly all other proposals: the scene, not an object
    tags : (C,) bool
    given : (n,) int64, label of a proposal that a person drew, else -1
    points : per point, its label and which proposals cover it: (label, (n,) bool)
    crops, work_hw, hw : to write masks, see ``Proposals``
    packed : (n, words)
    """

    task_id: int
    features: Floats
    prior: Floats
    iou: npt.NDArray[np.float16]
    cover: npt.NDArray[np.float16]
    big: npt.NDArray[np.bool_]
    tags: npt.NDArray[np.bool_]
    given: Ints
    points: tuple[tuple[int, npt.NDArray[np.bool_]], ...]
    crops: list[Crop]
    work_hw: tuple[int, int]
    hw: tuple[int, int]
    packed: Words

    def __len__(self) -> int:
        return len(self.prior)


def make_bag(
    task_id: int, found: Proposals, features: Floats, tags: Sequence[int], drawn: Drawn, n_labels: int
) -> Bag:
    """The bag of a picture; the last proposals of ``found`` are the drawn masks, in their order."""
    iou, cover = overlap_maps(found.packed)
    wanted = np.zeros(n_labels, np.bool_)
    wanted[list(tags)] = True
    given = np.full(len(found), -1, np.int64)
    for place, (label, _) in enumerate(drawn.masks, start=len(found) - len(drawn.masks)):
        given[place] = label
        wanted[label] = True
    points = []
    if drawn.points:
        grid = unpack(found.packed)
        side = grid.shape[1]
        for label, x, y in drawn.points:
            wanted[label] = True
            column, row = min(int(x * side), side - 1), min(int(y * side), side - 1)
            points.append((label, np.asarray(grid[:, row, column])))
    return Bag(
        task_id=task_id,
        features=features,
        prior=found.prior,
        iou=iou.astype(np.float16),
        cover=cover.astype(np.float16),
        big=is_big(cover) & (given < 0),  # what a person drew is an object, however large
        tags=wanted,
        given=given,
        points=tuple(points),
        crops=found.crops,
        work_hw=found.work_hw,
        hw=found.hw,
        packed=found.packed,
    )


def is_big(cover: Floats) -> npt.NDArray[np.bool_]:
    """(n,) bool: proposals that cover more than 85 % of each of at least 90 % of all proposals."""
    return np.asarray((cover > _BIG_COVER).mean(axis=1) >= _BIG_SHARE, np.bool_)
