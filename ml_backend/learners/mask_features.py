"""Features of single masks by the models that also describe whole pictures (``picture_features``).

A learner gives each mask an embedding of its own, which comes from where the learner looked when it found the
mask, and costs nothing more. These features stand in for it: they know nothing of the learner, so a better
model of what things look like can sort its masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.instances import Instances, Rle
from ml_backend.learners.picture_features import picture_features
from ml_backend.masks.rle import decode_rle, rle_box

__all__ = ["MaskFeatures", "mask_crop"]

_GREY: Final = 124
"""what lies outside of a mask: about the mean of photographs, which models see as nothing special"""
_BATCH: Final = 32


class MaskFeatures:
    """Gives an embedding to each mask of a picture.

    Parameters
    ----------
    choice : ``classical``, or the folder of a vision model
    device : where that model runs, as torch names it
    field : the setting that errors name

    Raises BadInput when there is no such model.
    """

    def __init__(self, choice: str, *, device: str = "cpu", field: str = "features") -> None:
        self._model = picture_features(choice, device=device, field=field)
        self.name = self._model.name
        """stands for the model: embeddings of different names are not compared"""

    @cached_property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self._model([np.full((8, 8, 3), _GREY, np.uint8)]).shape[1])

    def __call__(self, image: npt.NDArray[np.uint8], rles: Sequence[Rle]) -> npt.NDArray[np.float32]:
        """(n, dim) float32 of n masks on an (H, W, 3) uint8 RGB picture of their size."""
        parts = [
            self._model([mask_crop(image, rle) for rle in rles[start : start + _BATCH]])
            for start in range(0, len(rles), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def embed(self, image: npt.NDArray[np.uint8], found: Instances) -> Instances:
        """The instances with these embeddings."""
        return replace(found, embedding=self(image, found.rle))


def mask_crop(image: npt.NDArray[np.uint8], rle: Rle) -> npt.NDArray[np.uint8]:
    """The mask alone on grey, as (s, s, 3) uint8: a square around its box, so that nothing is stretched.

    So two masks in the same place differ by their outlines. An empty mask is one grey pixel.
    """
    left, top, right, bottom = (round(edge) for edge in rle_box(rle))
    side = max(right - left, bottom - top, 1)
    crop = np.full((side, side, 3), _GREY, np.uint8)
    mask = decode_rle(rle)[top:bottom, left:right].astype(bool)
    y, x = (side - mask.shape[0]) // 2, (side - mask.shape[1]) // 2
    inside = crop[y : y + mask.shape[0], x : x + mask.shape[1]]
    inside[mask] = image[top:bottom, left:right][mask]
    return crop
