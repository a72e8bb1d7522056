"""A whole mask as one closed ring: for formats that know one polygon per object.

Parts and holes are joined by bridges of no width, as the converters of such data sets do. A reader that fills
by the even-odd or the non-zero rule gets parts and holes back; one that also draws the line gets the bridges
as lines of one pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from ml_backend.errors import BadInput
from ml_backend.instances import Rle
from ml_backend.masks.outlines import outline_rings
from ml_backend.masks.rle import decode_rle, rle_box

__all__ = ["mask_ring"]

Points = npt.NDArray[np.float64]


def mask_ring(rle: Rle, *, tolerance_px: float = 0.3) -> Points:
    """(n, 2) corners x, y in pixels, along the edges of pixels.

    Outlines are thinned (Douglas-Peucker) so that no point moves by more than ``tolerance_px``. Raises
    BadInput on an empty mask.
    """
    x0, y0, x1, y1 = (int(v) for v in rle_box(rle))
    if x1 <= x0 or y1 <= y0:
        raise BadInput("an empty mask has no outline", field="rle")
    crop = decode_rle(rle)[y0:y1, x0:x1].view(np.uint8)
    # three times as large, the outline of pixel centres lies a third of a pixel inside the pixels' edges:
    # every pixel centre is on the right side of it, however the reader rounds
    large = np.zeros((3 * crop.shape[0] + 2, 3 * crop.shape[1] + 2), np.uint8)
    large[1:-1, 1:-1] = crop.repeat(3, 0).repeat(3, 1)
    rings = []
    for ring in outline_rings(large, holes=True):
        thin = cv2.approxPolyDP(ring, 3 * tolerance_px, closed=True) if tolerance_px > 0 else ring
        thin = thin if len(thin) >= 3 else ring
        rings.append((thin.reshape(-1, 2).astype(np.float64) - 0.5) / 3 + (x0, y0))
    rings = [ring for ring in rings if len(ring) >= 3]
    rings.sort(key=len, reverse=True)
    return _joined(rings[0], rings[1:])


def _joined(main: Points, others: list[Points]) -> Points:
    """All rings as one: each is visited from the corner of ``main`` that is nearest to it, and left again."""
    tree = KDTree(main)
    detours: dict[int, list[Points]] = {}
    for ring in others:
        far, corner = tree.query(ring)
        start = int(np.argmin(far))
        detours.setdefault(int(corner[start]), []).append(np.concatenate([ring[start:], ring[: start + 1]]))
    parts: list[Points] = []
    done = 0
    for corner in sorted(detours):
        here = main[corner : corner + 1]
        parts.append(main[done : corner + 1])
        for detour in detours[corner]:
            parts += [detour, here]
        done = corner + 1
    return np.concatenate([*parts, main[done:]])
