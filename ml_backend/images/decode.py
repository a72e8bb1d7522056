"""Decode a picture file to RGB pixels: the only decoder, for training, inference, clicks and crops.

Pixels are those the editor shows: EXIF orientation is applied, as browsers do, so the size is the one in
which Label Studio states its coordinates (``original_height``, ``original_width``). Transparency is laid on
white, 16-bit greys are scaled by their range, palettes and CMYK become RGB.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ml_backend.errors import BadImage

__all__ = ["MAX_PIXELS", "decode_image", "read_image"]

MAX_PIXELS: Final = 200_000_000
"""Limit in pixels where the settings give none."""

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
_MARKUP: Final = re.compile(rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\0]*<(?!ftyp)")
"""what begins like markup, in one or two bytes a letter; ``<ftyp`` is how an AVIF of some brands begins"""
_DAMAGE: Final = (
    OSError, ValueError, SyntaxError, EOFError, MemoryError, ArithmeticError, RuntimeError,
    TypeError, AttributeError, LookupError, struct.error, zlib.error,
)  # fmt: skip
"""Exceptions that Pillow's readers are known to raise on damaged files."""


def decode_image(data: bytes, *, max_pixels: int, field: str = "image") -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of image bytes, orientation applied. Raises BadImage."""
    with pil_errors(field), open_image(data, max_pixels=max_pixels, field=field) as image:
        return _to_rgb(image)


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 RGB, orientation applied. Raises BadImage when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot read {path}: {error}", hint="Is it there, and readable?") from error
    return decode_image(data, max_pixels=max_pixels, field=path.name)


def read_cached(path: Path) -> bytes:
    """Bytes of a cached picture. Raises BadImage when it is no longer in the cache."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"the cached copy {path} cannot be read ({error.strerror})", field="image") from error


@contextmanager
def open_image(data: bytes, *, max_pixels: int, field: str) -> Iterator[Image.Image]:
    """The picture behind ``data``, not decoded yet. Raises BadImage when it is empty or too large."""
    if not data:
        raise BadImage("the file is empty", field=field)
    if _MARKUP.match(data):
        raise BadImage(
            "the file is a web page or a drawing (SVG), whatever its name says",
            field=field,
            hint="JPEG, PNG, WebP, TIFF, BMP and GIF work",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about size (we check it ourselves) and odd metadata
        # Pillow refuses pictures larger than twice its own limit, before ours is checked
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadImage(
                    f"the image has {image.width}×{image.height} pixels, more than {max_pixels}",
                    field=field,
                    hint="Raise GROUNDSWELL_MAX_IMAGE_PIXELS or use smaller pictures",
                )
            yield image


@contextmanager
def pil_errors(field: str) -> Iterator[None]:
    """Turn what Pillow raises on damaged files into BadImage."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadImage(
            "the file is not an image", field=field, hint="JPEG, PNG, WebP, TIFF, BMP and GIF work"
        ) from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"the image is too large ({error})", field=field) from error
    except _DAMAGE as error:
        raise BadImage(f"the image is damaged ({error})", field=field) from error


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    image.load()
    shown = ImageOps.exif_transpose(image)
    if shown.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        grey = np.asarray(shown, np.float32)
        low, high = float(grey.min()), float(grey.max())
        scaled = np.zeros(grey.shape, np.uint8)
        if high > low:
            scaled = ((grey - low) * (255 / (high - low))).round().astype(np.uint8)
        return np.repeat(scaled[..., None], 3, axis=2)
    if shown.mode in ("RGBA", "LA", "PA") or "transparency" in shown.info:
        rgba = shown.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        shown = Image.alpha_composite(white, rgba)
    return np.array(shown.convert("RGB"), np.uint8)
