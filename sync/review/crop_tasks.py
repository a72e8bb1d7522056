"""What is cut out of the pixels of pictures for people to judge, as a function that runs on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ml_backend.errors import BadImage
from ml_backend.images.crops import render_crop
from ml_backend.instances import Rle
from sync.executor.base import Node
from sync.rounds.loaded_pictures import Picture, pixels_of

__all__ = ["Cut", "Cutting", "ToCut", "cut"]


@dataclass(frozen=True, slots=True)
class Cutting:
    """What all crops have in common; ``size_px``: their longer side."""

    size_px: int


@dataclass(frozen=True, slots=True, eq=False)
class ToCut:
    """One picture, and the masks on it that are to be shown."""

    picture: Picture
    masks: tuple[Rle, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A JPEG for each mask of one picture, or the ``error`` why the picture cannot be read."""

    error: str
    crops: tuple[bytes, ...] = ()


def cut(cutting: Cutting, asked: Sequence[ToCut], node: Node) -> tuple[Cut, ...]:
    """The crops of each picture, see ``render_crop``. Raises BadInput when a mask does not fit."""
    found = []
    for each in asked:
        try:
            pixels = pixels_of(each.picture)
        except BadImage as error:
            found.append(Cut(str(error)))
            continue
        found.append(Cut("", tuple(render_crop(pixels, rle, size_px=cutting.size_px) for rle in each.masks)))
    return tuple(found)
