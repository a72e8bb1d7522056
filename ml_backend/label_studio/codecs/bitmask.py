"""Bitmask regions: PNG data URLs whose alpha channel is the mask.

The editor draws black on transparent and writes RGBA PNGs; it reads any PNG with alpha. We write one bit per
pixel with a two-colour palette (transparent, black): the smallest form that decodes to the same canvas. The
file is put together here because packing bits and filtering rows with numpy is several times faster than
going through an image library's palette mode.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.label_studio.codecs.base import RegionCodec
from ml_backend.masks.rle import decode_rle, encode_mask

__all__ = ["BITMASK", "bitmask_to_rle", "check_bitmask", "rle_to_bitmask"]

_PREFIX: Final = "data:image/png;base64,"
_FIELD: Final = "value.imageDataURL"
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PALETTE: Final = 3
_MAX_BYTES: Final = 1 << 30
_DAMAGE: Final = (
    OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError, TypeError, KeyError, IndexError,
    struct.error, zlib.error, binascii.Error,
)  # fmt: skip
"""Exceptions that Pillow and its parts are known to raise on damaged PNGs."""
_NONE: Final = 0
_UP: Final = 2  # PNG's row filter "difference to the row above"


def rle_to_bitmask(rle: Rle) -> str:
    """PNG data URL of a mask: black where it is set, transparent elsewhere."""
    return _PREFIX + base64.b64encode(_png(decode_rle(rle))).decode("ascii")


def bitmask_to_rle(url: object, hw: tuple[int, int]) -> Rle:
    """Mask of a PNG data URL: alpha above 127.

    Raises BadRegion when the value is not a PNG data URL, is damaged, has another size than ``hw``, or would
    take more than 1 GiB of memory. Size and memory are checked before decoding, because a small file may
    contain a huge picture.
    """
    try:
        data = base64.b64decode(_body(url), validate=True)
        _check_header(data, hw)
        with PngImageFile(io.BytesIO(data)) as image:
            if not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
                raise BadRegion("the PNG has no transparency, so all of it would be mask", field=_FIELD)
            inside = _alpha(image) > 127
    except _DAMAGE as error:
        raise BadRegion(f"the PNG cannot be read ({error})", field=_FIELD) from error
    return encode_mask(inside)


def check_bitmask(url: object, hw: tuple[int, int]) -> None:
    """Look at the PNG's header only. Raises BadRegion when it is missing or states another size."""
    try:
        _check_header(base64.b64decode(_body(url)[:48], validate=True), hw)
    except _DAMAGE as error:
        raise BadRegion(f"the PNG cannot be read ({error})", field=_FIELD) from error


def _body(url: object) -> str:
    if not isinstance(url, str) or not url.startswith(_PREFIX):
        raise BadRegion("expected a PNG data URL (data:image/png;base64,…)", field=_FIELD)
    return url[len(_PREFIX) :]


def _check_header(data: bytes, hw: tuple[int, int]) -> None:
    """The first 33 bytes of a PNG: signature, size, colour type."""
    if len(data) < 26 or data[:8] != _SIGNATURE or data[12:16] != b"IHDR":
        raise BadRegion("the PNG cannot be read (it does not begin as one)", field=_FIELD)
    width, height, _, colours = struct.unpack(">IIBB", data[16:26])
    if (height, width) != tuple(hw):
        raise BadRegion(f"the mask has {width}×{height} pixels, the image {hw[1]}×{hw[0]}", field=_FIELD)
    needed = width * height * (1 if colours == _PALETTE else 4)
    if needed > _MAX_BYTES:
        raise BadRegion(
            f"the mask has {width}×{height} pixels, too many to decode",
            field=_FIELD,
            hint="Use a brush tag (BrushLabels) for pictures of this size",
        )


def _alpha(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(H, W) alpha. Palettes (ours) are looked up, many times faster than converting the picture."""
    image.load()
    transparency = image.info.get("transparency")
    if image.mode == "P" and isinstance(transparency, bytes):
        table = np.full(256, 255, np.uint8)
        table[: len(transparency)] = np.frombuffer(transparency, np.uint8)
        return np.asarray(table[np.asarray(image)], np.uint8)
    if image.mode == "RGBA":
        return np.asarray(image, np.uint8)[..., 3]
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _png(mask: npt.NDArray[np.bool_]) -> bytes:
    """One-bit palette PNG of an (H, W) mask."""
    height, width = mask.shape
    packed = np.packbits(mask, axis=1)
    change = packed.copy()
    change[1:] -= packed[:-1]  # modulo 256, as the format wants
    # Which filter gives the smaller file depends on the mask (one object or many). Trying both is fast.
    data = min(_deflate(packed, _NONE), _deflate(change, _UP), key=len)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)),  # 1 bit, palette
        (b"PLTE", bytes(6)),
        (b"tRNS", b"\x00\xff"),
        (b"IDAT", data),
        (b"IEND", b""),
    )
    parts = [_SIGNATURE]
    for name, body in chunks:
        parts += [struct.pack(">I", len(body)), name, body, struct.pack(">I", zlib.crc32(name + body))]
    return b"".join(parts)


def _deflate(packed: npt.NDArray[np.uint8], row_filter: int) -> bytes:
    """Rows with their filter byte, compressed as runs: for masks as small as zlib's default, many times
    faster.
    """
    rows = np.empty((packed.shape[0], packed.shape[1] + 1), np.uint8)
    rows[:, 0] = row_filter
    rows[:, 1:] = packed
    deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return deflate.compress(rows.tobytes()) + deflate.flush()


def _read(value: Mapping[str, Any], hw: tuple[int, int]) -> Rle:
    return bitmask_to_rle(value.get("imageDataURL"), hw)


def _write(
    rle: Rle, hw: tuple[int, int], box_xyxy: tuple[float, float, float, float], tolerance_px: float
) -> tuple[dict[str, Any], float]:
    return {"imageDataURL": rle_to_bitmask(rle)}, 1.0


def _check(value: Mapping[str, Any], hw: tuple[int, int]) -> None:
    check_bitmask(value.get("imageDataURL"), hw)


BITMASK: Final = RegionCodec("mask", _read, _write, _check)
