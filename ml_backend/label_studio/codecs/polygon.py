"""PolygonLabels: corners in percent of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.label_studio.codecs.base import RegionCodec
from ml_backend.masks.outlines import polygon_to_rle, rle_to_polygon

__all__ = ["POLYGON"]


def _read(value: Mapping[str, Any], hw: tuple[int, int]) -> Rle:
    return polygon_to_rle(_percent_points(value) / 100 * (hw[1], hw[0]), hw)


def _write(
    rle: Rle, hw: tuple[int, int], box_xyxy: tuple[float, float, float, float], tolerance_px: float
) -> tuple[dict[str, Any], float]:
    polygon, iou = rle_to_polygon(rle, tolerance_px=tolerance_px)
    percent = polygon * (100 / hw[1], 100 / hw[0])
    return {"points": np.round(percent, 4).tolist(), "closed": True}, iou


def _check(value: Mapping[str, Any], hw: tuple[int, int]) -> None:
    _percent_points(value)


def _percent_points(value: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """(n, 2) corners in percent."""
    points = np.asarray(value.get("points"), np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise BadRegion("points must be at least three [x, y] pairs", field="value.points")
    if not np.isfinite(points).all():
        raise BadRegion("a corner is not a finite number", field="value.points")
    return points


POLYGON: Final = RegionCodec("polygon", _read, _write, _check)
