"""RectangleLabels: x, y, width and height in percent of the image, with a rotation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.label_studio.codecs.base import RegionCodec, number_of
from ml_backend.masks.outlines import polygon_to_rle
from ml_backend.masks.rle import rle_area

__all__ = ["RECTANGLE", "rotated_box", "upright_box", "write_rotated"]

_ROUNDING: Final = 0.01
"""percent by which a rounded box may leave the image"""


def _read(value: Mapping[str, Any], hw: tuple[int, int]) -> Rle:
    return polygon_to_rle(_corners(value, hw), hw)


def _write(
    rle: Rle, hw: tuple[int, int], box_xyxy: tuple[float, float, float, float], tolerance_px: float
) -> tuple[dict[str, Any], float]:
    x0, y0, x1, y1 = box_xyxy
    value = {
        "x": round(x0 / hw[1] * 100, 5),
        "y": round(y0 / hw[0] * 100, 5),
        "width": round((x1 - x0) / hw[1] * 100, 5),
        "height": round((y1 - y0) / hw[0] * 100, 5),
        "rotation": 0,
    }
    return value, rle_area(rle) / max((x1 - x0) * (y1 - y0), 1.0)


def upright_box(value: Mapping[str, Any], hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels of a box without rotation, cut at the border of the image; not rounded to
    pixels. Raises BadRegion on values that are no numbers.
    """
    x, y, w, h = (number_of(value, key) for key in ("x", "y", "width", "height"))
    left, right = sorted(min(max(v, 0.0), 100.0) / 100 * hw[1] for v in (x, x + w))
    top, bottom = sorted(min(max(v, 0.0), 100.0) / 100 * hw[0] for v in (y, y + h))
    return left, top, right, bottom


def rotated_box(value: Mapping[str, Any], hw: tuple[int, int]) -> tuple[float, ...]:
    """x and y of the top left corner, width and height in pixels, and degrees clockwise about that corner;
    empty when the box is upright. Raises BadRegion on values that are no numbers.
    """
    if not value.get("rotation"):
        return ()
    x, y, w, h, angle = (number_of(value, key) for key in ("x", "y", "width", "height", "rotation"))
    return x / 100 * hw[1], y / 100 * hw[0], w / 100 * hw[1], h / 100 * hw[0], angle


def write_rotated(rotated: Sequence[float], hw: tuple[int, int]) -> dict[str, Any]:
    """The value of what ``rotated_box`` gives, without its labels."""
    x, y, w, h, angle = (float(number) for number in rotated)
    return {
        "x": round(x / hw[1] * 100, 5),
        "y": round(y / hw[0] * 100, 5),
        "width": round(w / hw[1] * 100, 5),
        "height": round(h / hw[0] * 100, 5),
        "rotation": round(angle, 5),
    }


def _check(value: Mapping[str, Any], hw: tuple[int, int]) -> None:
    x, y, w, h = (number_of(value, key) for key in ("x", "y", "width", "height"))
    is_inside = x >= -_ROUNDING and y >= -_ROUNDING and x + w <= 100 + _ROUNDING and y + h <= 100 + _ROUNDING
    if not is_inside and not value.get("rotation"):
        raise BadRegion(f"box {x:g},{y:g} {w:g}×{h:g} % leaves the image", field="value")
    if w <= 0 or h <= 0:
        raise BadRegion(f"box of {w:g}×{h:g} % covers no pixel", field="value")


def _corners(value: Mapping[str, Any], hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(4, 2) corners in pixels. The rotation is in degrees, clockwise, about the top left corner."""
    x, y, w, h = (number_of(value, key) for key in ("x", "y", "width", "height"))
    angle = math.radians(number_of(value, "rotation") if value.get("rotation") is not None else 0.0)
    scale_x, scale_y = hw[1] / 100, hw[0] / 100
    along = np.array([math.cos(angle), math.sin(angle)]) * (w * scale_x)
    across = np.array([-math.sin(angle), math.cos(angle)]) * (h * scale_y)
    corner = np.array([x * scale_x, y * scale_y])
    return np.stack([corner, corner + along, corner + along + across, corner + across])


RECTANGLE: Final = RegionCodec("box", _read, _write, _check)
