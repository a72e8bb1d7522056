"""Bitmask regions: PNG data URLs whose alpha channel is the mask.

The editor draws black on transparent and writes RGBA PNGs; it reads any PNG with alpha. We write one bit
per pixel with a two-colour palette (transparent, black): the smallest form that decodes to the same canvas.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from ml_backend.brush import decode_rle, encode_mask
from ml_backend.errors import BadRegion
from ml_backend.instances import Rle

__all__ = ["bitmask_to_rle", "rle_to_bitmask"]

_PREFIX: Final = "data:image/png;base64,"


def rle_to_bitmask(rle: Rle) -> str:
    """PNG data URL of a mask: black where it is set, transparent elsewhere."""
    image = Image.fromarray(decode_rle(rle).view(np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    file = io.BytesIO()
    image.save(file, "PNG", bits=1, transparency=b"\x00\xff", compress_level=6)
    return _PREFIX + base64.b64encode(file.getvalue()).decode("ascii")


def bitmask_to_rle(url: object, hw: tuple[int, int]) -> Rle:
    """Mask of a PNG data URL: alpha above 127. Raises BadRegion when it is not one or has another size."""
    if not isinstance(url, str) or not url.startswith(_PREFIX):
        raise BadRegion("expected a PNG data URL (data:image/png;base64,…)", field="value.imageDataURL")
    try:
        data = base64.b64decode(url[len(_PREFIX) :], validate=True)
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if (image.height, image.width) != tuple(
            hw
        ):  # before decoding: a small file may announce a huge picture
            raise BadRegion(
                f"the mask has {image.width}×{image.height} pixels, the image {hw[1]}×{hw[0]}",
                field="value.imageDataURL",
            )
        if not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
            raise BadRegion(
                "the PNG has no transparency, so all of it would be mask", field="value.imageDataURL"
            )
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise BadRegion(f"the PNG cannot be read ({error})", field="value.imageDataURL") from error
    return encode_mask(alpha > 127)
