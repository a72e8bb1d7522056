"""Proposals of a picture of no known class, each with numbers that say how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ml_backend.instances import Rle
from ml_backend.learners.mask_features import MaskFeatures
from ml_backend.learners.weak.candidates import Crop, Maps
from ml_backend.learners.weak.cues import CUES
from ml_backend.learners.weak.features import classical_features
from ml_backend.learners.weak.proposals import MaskSource, Proposals, find_proposals, rle_at
from ml_backend.masks.rle import rle_area, rle_iou

__all__ = ["OWN", "Describer", "Looks", "clash", "describer", "propose"]

Floats = npt.NDArray[np.float32]

OWN: Final = "own"
"""Numbers that need no model: colours, texture and form of a mask, and what surrounds it."""
MOST: Final = 200
WORK_SIDE: Final = 480
_CLASH_IOU, _CLASH_COVER = 0.4, 0.7
"""Two masks are not offered together when they overlap so much, or one covers so much of the other."""
_PLACE, _SIZE, _WHOLE = 2, 2, 6
"""columns at the end of ``classical_features``: place and size of the mask, colours of the whole picture"""


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """The n proposals of one picture, the most object-like first.

    Attributes
    ----------
    hw : height and width of the picture
    rle : n masks at that size, none of them empty
    prior : (n,) float32 in 0..1, how much each looks like a complete object of any kind
    feature : (n, f) float32, how each looks, not scaled
    """

    hw: tuple[int, int]
    rle: list[Rle]
    prior: Floats
    feature: Floats


class Describer(Protocol):
    """Gives each mask of a picture its numbers; ``name`` stands for how: other names are not compared."""

    name: str

    def __call__(self, image: npt.NDArray[np.uint8], found: Proposals, rles: Sequence[Rle]) -> Floats:
        """(n, f) float32 of the n proposals ``found`` on an (H, W, 3) picture, whose masks are ``rles``."""
        ...


def describer(choice: str, *, device: str = "cpu") -> Describer:
    """``own``, or what ``MaskFeatures`` takes (``classical``, the folder of a vision model).

    Raises BadInput naming ``cluster_features``, the setting that says so, when there is no such model.
    """
    if choice == OWN:
        return _Own()
    return _Cut(choice, device)


class _Own:
    name = "own-1"

    def __call__(self, image: npt.NDArray[np.uint8], found: Proposals, rles: Sequence[Rle]) -> Floats:
        """Without where the mask lies and what the whole picture looks like: they say nothing of the object
        and would make masks of one picture alike."""
        every = classical_features(found)
        looks = every[:, len(CUES) : -(_PLACE + _SIZE + _WHOLE)]
        return np.concatenate([looks, every[:, -(_SIZE + _WHOLE) : -_WHOLE]], axis=1)


class _Cut:
    def __init__(self, choice: str, device: str) -> None:
        self._features = MaskFeatures(choice, device=device, field="cluster_features")
        self.name = self._features.name

    def __call__(self, image: npt.NDArray[np.uint8], found: Proposals, rles: Sequence[Rle]) -> Floats:
        return self._features(image, rles)


def propose(
    image: npt.NDArray[np.uint8],
    describe: Describer,
    source: MaskSource | None,
    *,
    most: int = MOST,
    drawn: Sequence[Rle] = (),
) -> tuple[Looks, Floats]:
    """Proposals of an (H, W, 3) uint8 RGB picture, and the numbers (d, f) of the d ``drawn`` masks.

    ``source`` None: no proposals, only what was drawn is described. ``drawn`` are at the size of the picture
    and not empty.
    """
    found = find_proposals(image, source or _Nothing(), most=most, work_side=WORK_SIDE, drawn=drawn)
    n = len(found) - len(drawn)
    rles = [rle_at(crop, found.work_hw, found.hw) for crop in found.crops[:n]]
    feature = describe(image, found, [*rles, *drawn])
    kept = np.array([i for i, rle in enumerate(rles) if rle_area(rle)], np.intp)
    looks = Looks(found.hw, [rles[i] for i in kept], found.prior[kept], feature[kept])
    return looks, feature[n:]


def clash(rles: Sequence[Rle]) -> npt.NDArray[np.bool_]:
    """(n, n) whether two masks of a picture would be one object, or one a part of the other."""
    iou = rle_iou(rles, rles)
    area = np.array([rle_area(rle) for rle in rles], np.float64)
    both = iou * (area[:, None] + area[None]) / (1 + iou)
    cover = both / np.minimum(area[:, None], area[None])
    return np.asarray((iou > _CLASH_IOU) | (cover > _CLASH_COVER), np.bool_)


class _Nothing:
    name = "nothing"

    def masks(self, image: npt.NDArray[np.uint8], maps: Maps) -> tuple[list[Crop], Floats | None]:
        """No proposals."""
        return [], None
