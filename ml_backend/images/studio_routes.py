"""The routes of Label Studio that serve images. The token is sent to these routes only.

Anybody who may import tasks or call ``/predict`` chooses the addresses. The token is an administrator's, so
an address like ``/data/upload/../../api/users`` must not reach any other route.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from ml_backend.images.addresses import origin_of

__all__ = ["address_from_here", "is_image_route"]

_ROUTES: Final = re.compile(
    r"""
    /data/upload/.+                                 # uploaded files
    | /data/local-files/?                           # files of local storages; which one is in the query
    | /storage-data/.+                              # files of cloud storages
    | /(tasks|projects)/[0-9]+/(resolve|presign)/?  # storage addresses that Label Studio looks up itself
    """,
    re.VERBOSE,
)
_MAX_ENCODINGS: Final = 8


def is_image_route(address: str, base_url: str) -> bool:
    """Whether a full address is a route of the Label Studio at ``base_url`` that holds images.

    The path is checked as a server might read it: with every layer of percent-encoding removed, and with
    backslashes as slashes. A path that contains ``.`` or ``..`` is refused. The hosts are not compared.
    """
    if any(ord(c) < 32 or ord(c) == 127 for c in address):
        return False  # parsers drop these characters, each in its own way
    path = _plain(urlsplit(address).path)
    prefix = urlsplit(base_url).path.rstrip("/")
    if path is None or not path.startswith(f"{prefix}/"):
        return False
    path = path[len(prefix) :]
    parts = path[1:].rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        return False
    return _ROUTES.fullmatch(path) is not None


def address_from_here(address: str, *, public_url: str, studio_url: str) -> str:
    """Where this machine finds an image that a task names as browsers find it.

    Storages of local files write the address for browsers (LABEL_STUDIO_HOST) into tasks, and uploads begin
    with the path below which Label Studio is served. What is no image route of the Label Studio at
    ``public_url`` ("": there is none) is given back as it is.
    """
    is_public = bool(public_url) and address[:4].lower() == "http"
    if is_public and origin_of(address) == origin_of(public_url):
        return _moved(address, public_url, studio_url)
    for url in (public_url, studio_url):
        prefix = urlsplit(url).path.rstrip("/")
        if prefix and address.startswith(f"{prefix}/"):
            address = _moved(address, url, studio_url)
    return address


def _moved(address: str, served_at: str, studio_url: str) -> str:
    parts, prefix = urlsplit(address), urlsplit(served_at).path.rstrip("/")
    if not parts.path.startswith(f"{prefix}/") or not is_image_route(address, served_at):
        return address
    return f"{studio_url}{parts.path[len(prefix) :]}{'?' * bool(parts.query)}{parts.query}"


def _plain(path: str) -> str | None:
    """The path without percent-encoding; None when it is encoded more often than any real path."""
    for _ in range(_MAX_ENCODINGS):
        inner = unquote(path)
        if inner == path:
            path = path.replace("\\", "/")
            return None if any(ord(c) < 32 or ord(c) == 127 for c in path) else path
        path = inner
    return None
