"""Mask files: one number per pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ml_backend.errors import BadInput

__all__ = ["picture_hw", "read_indices"]

_ORIENTATION = 0x0112


def read_indices(path: Path) -> npt.NDArray[np.int32]:
    """(H, W) numbers of a palette, grey (8 or 16 bits) or black and white picture.

    Colours are only numbers where there is a palette. Transparent pixels of a picture with an alpha channel
    are 0, others 255. Raises BadInput when it cannot be read, or is in colours.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("RGBA", "LA"):
                return np.where(np.asarray(image.getchannel("A")) > 0, 255, 0).astype(np.int32)
            values = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if values.ndim == 3:
        if not (values[..., :1] == values).all():
            raise BadInput(
                f"{path.name} is in colours; a mask holds one number per pixel",
                hint="Write it with a palette or in grey",
            )
        values = values[..., 0]
    return values.astype(np.int32)


def picture_hw(path: Path) -> tuple[int, int]:
    """Height and width of a picture as browsers show it, from its head alone. Raises BadInput."""
    try:
        with Image.open(path) as image:
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
