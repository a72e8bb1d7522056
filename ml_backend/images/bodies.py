"""Read the body of an answer that should be a picture: no more bytes than allowed, sent or unpacked.

Pictures are packed already, so we ask for bodies without another packing. Some stores send what was kept
packed all the same. Such a body is unpacked after it is complete, and never beyond the limit.
"""

from __future__ import annotations

import zlib
from typing import Final

import httpx

from ml_backend.errors import BadImage

__all__ = ["ASKED", "read_body"]

ASKED: Final = {"Accept-Encoding": "identity"}
"""Headers of a request for a picture. No narrower ``Accept``: Label Studio answers one with status 406."""

_DOCUMENTS: Final = ("text/html", "application/xhtml", "image/svg", "text/xml", "application/xml")
_ZLIB_OR_GZIP: Final = 47
"""``wbits`` of zlib for either header"""


def read_body(
    reply: httpx.Response,
    *,
    name: str,
    limit: int,
    field: str,
    page_hint: str = "",
) -> bytes:
    """All bytes of a reply.

    Parameters
    ----------
    reply : an open one with status 200
    name : what messages call it
    limit : bytes at most, as they are sent and unpacked
    field : of errors
    page_hint : what to do when a web page comes instead

    Raises BadImage when it says that it is a document, is too large, or is packed in a way that is not read.
    """
    kind = reply.headers.get("content-type", "").strip().lower()
    if kind.startswith(_DOCUMENTS):
        what = "an SVG drawing" if kind.startswith("image/svg") else "a web page"
        raise BadImage(f"{name} answered with {what}, not an image", field=field, hint=page_hint)
    length = reply.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > limit:
        raise _too_large(name, limit, field)
    parts, size = [], 0
    for part in reply.iter_raw():  # as it is sent: what unpacks to nothing counts, too
        size += len(part)
        if size > limit:
            raise _too_large(name, limit, field)
        parts.append(part)
    return _unpacked(b"".join(parts), reply.headers.get("content-encoding", ""), name, limit, field)


def _unpacked(data: bytes, encoding: str, name: str, limit: int, field: str) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadImage(f"{name} is packed as {encoding[:40]!r}, which is not read", field=field)
    unpacker = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        found = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise BadImage(f"{name} is packed, and damaged ({error})", field=field) from None
    if len(found) > limit:
        raise _too_large(name, limit, field)
    if not unpacker.eof:
        raise BadImage(f"{name} is packed, and not complete", field=field)
    return found


def _too_large(name: str, limit: int, field: str) -> BadImage:
    return BadImage(
        f"{name} is larger than {limit} bytes", field=field, hint="Raise GROUNDSWELL_MAX_IMAGE_BYTES"
    )
