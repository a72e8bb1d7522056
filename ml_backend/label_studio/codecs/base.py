"""What every codec of a region tag offers, and the checks that several of them share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle

__all__ = ["RegionCodec", "RegionKind", "finite", "number_of"]

RegionKind = Literal["mask", "box", "polygon"]
Value = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RegionCodec:
    """How one tag writes a mask under ``value`` of a result. ``hw`` is (height, width) of the image.

    Attributes
    ----------
    kind : what people draw with the tag
    read : the mask of a value. Raises BadRegion.
    write : the value of a mask without its labels, and the IoU of what is stored with the mask. Takes the
        mask, ``hw``, the box to write (x0, y0, x1, y1 in pixels) and how far an outline may be off, in
        pixels. Raises BadRegion.
    check : check a value without decoding its mask. Raises BadRegion.
    """

    kind: RegionKind
    read: Callable[[Value, tuple[int, int]], Rle]
    write: Callable[
        [Rle, tuple[int, int], tuple[float, float, float, float], float], tuple[dict[str, Any], float]
    ]
    check: Callable[[Value, tuple[int, int]], None]


def number_of(value: Value, key: str) -> float:
    """A finite number under ``value``. Raises BadRegion naming the field."""
    found = value.get(key)
    number = finite(found)
    if number is None:
        raise BadRegion(f"{key} is {found!r:.60}, expected a number", field=f"value.{key}")
    return number


def finite(value: object) -> float | None:
    """A JSON number as a float. None if it is not a number, not finite, or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None
