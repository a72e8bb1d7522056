"""One upright picture saved in the ways that cameras and microscopes save it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

ORIENTATION = 0x0112
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF orientation -> how the stored pixels lie, seen from the upright picture."""


def save_turned(path: Path, upright: npt.NDArray[np.uint8], orientation: int) -> Path:
    """A PNG whose stored pixels are turned, with the EXIF tag that says so: shown, it is ``upright``."""
    image = Image.fromarray(upright).transpose(TURNS[orientation])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif)
    return path


def save_16_bit(path: Path, upright: npt.NDArray[np.uint8]) -> Path:
    """A 16-bit grey PNG of the picture's first channel, 100 times as bright: most of it is beyond 255."""
    Image.fromarray(upright[:, :, 0].astype(np.uint16) * 100).save(path)
    return path


def save_truncated(path: Path, upright: npt.NDArray[np.uint8]) -> Path:
    """The first two thirds of a PNG: its header is right, its pixels are not all there."""
    Image.fromarray(upright).save(path, "PNG")
    data = path.read_bytes()
    path.write_bytes(data[: 2 * len(data) // 3])
    return path
