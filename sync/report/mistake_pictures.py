"""The picture of a likely mistake: what people drew around the place, and where to look."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ml_backend.artifacts.mistakes import Finding
from ml_backend.images.crops import crop_window
from ml_backend.instances import Rle
from ml_backend.masks.outlines import outline_rings
from ml_backend.masks.rle import decode_rle

__all__ = ["finding_picture", "pair_picture"]

_DARK: Final = (0, 0, 0)
_DRAWN: Final = (255, 255, 90)
_LOOK: Final = (255, 70, 70)
_QUALITY: Final = 86
_CONTEXT: Final = 0.8
Pixels = npt.NDArray[np.uint8]


def finding_picture(pixels: Pixels, drawn: Sequence[Rle], finding: Finding, *, size_px: int = 320) -> bytes:
    """JPEG of the place of a finding: drawn outlines in yellow, a red frame where to look.

    ``pixels`` is the (H, W, 3) RGB picture, ``drawn`` the regions of the annotation at its size. A finding
    about the whole picture shows all of it, without a frame.
    """
    height, width = pixels.shape[:2]
    whole = bool(np.isnan(finding.x0))
    box = (finding.x0, finding.y0, finding.x1, finding.y1)
    window = (
        (0, 0, width, height) if whole else crop_window(box, (height, width), context=_CONTEXT, min_px=96)
    )
    x0, y0, x1, y1 = window
    scale = size_px / max(x1 - x0, y1 - y0)
    out_wh = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    crop = cv2.resize(np.ascontiguousarray(pixels[y0:y1, x0:x1]), out_wh, interpolation=how)
    for rle in drawn:
        mask = decode_rle(rle)[y0:y1, x0:x1]
        if mask.any() and not mask.all():
            soft = cv2.resize(mask.astype(np.float32), out_wh, interpolation=cv2.INTER_LINEAR)
            rings = outline_rings(soft > 0.5, holes=True)
            cv2.drawContours(crop, rings, -1, _DARK, 4, cv2.LINE_AA)
            cv2.drawContours(crop, rings, -1, _DRAWN, 2, cv2.LINE_AA)
    if not whole:
        # a little outside of the object, so that its edge stays visible
        low = (round((box[0] - x0) * scale) - 5, round((box[1] - y0) * scale) - 5)
        high = (round((box[2] - x0) * scale) + 5, round((box[3] - y0) * scale) + 5)
        cv2.rectangle(crop, low, high, _DARK, 5, cv2.LINE_AA)
        cv2.rectangle(crop, low, high, _LOOK, 3, cv2.LINE_AA)
    return _jpeg(crop)


def pair_picture(first: Pixels, second: Pixels, *, size_px: int = 320) -> bytes:
    """JPEG of two pictures beside each other."""
    side = size_px // 2
    canvas = np.zeros((side, 2 * side, 3), np.uint8)
    for place, pixels in enumerate((first, second)):
        height, width = pixels.shape[:2]
        scale = (side - 2) / max(height, width)
        wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(pixels, wh, interpolation=cv2.INTER_AREA)
        x, y = place * side + (side - wh[0]) // 2, (side - wh[1]) // 2
        canvas[y : y + wh[1], x : x + wh[0]] = small
    return _jpeg(canvas)


def _jpeg(pixels: npt.NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()
