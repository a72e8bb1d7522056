"""Parse image addresses: scheme, host, file path, and the key under which a picture may be cached."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from ml_backend.errors import BadImage

__all__ = [
    "DEFAULT_PORT",
    "CacheKey",
    "cache_key",
    "checked_address",
    "file_path",
    "joined",
    "origin_of",
    "scheme_of",
    "short_address",
]

_STUDIO_FILES: Final = ("/data/", "/tasks/", "/projects/", "/storage-data/")
"""Paths that begin so are served by Label Studio."""

DEFAULT_PORT: Final = {"http": 80, "https": 443}
_UPLOADS: Final = "/data/upload/"


@dataclass(frozen=True, slots=True)
class CacheKey:
    """The key under which a picture may be cached, and whether its address always gives the same bytes."""

    name: str
    is_immutable: bool


def cache_key(value: str, *, studio_url: str, scope: str) -> CacheKey:
    """The cache key of an address of task data.

    Parameters
    ----------
    value : the address, without spaces around it
    studio_url : address of Label Studio, without a slash at its end
    scope : the project for which Label Studio resolves the address, or the task if the project is not known

    An upload never changes and has a path of its own. What else Label Studio serves (local files, cloud
    storages) may differ from project to project, so their key contains the scope and the server. The key of a
    local file contains its size and time, so that a change is noticed. Other hosts answer all projects alike.
    """
    if value.startswith("data:"):
        return CacheKey("data:" + hashlib.sha256(value.encode()).hexdigest(), is_immutable=True)
    path = file_path(value)
    if path is not None:
        try:
            stat = path.stat()
            return CacheKey(f"file:{path}:{stat.st_size}:{stat.st_mtime_ns}", is_immutable=True)
        except (OSError, ValueError):  # not there, or not a valid file name: it may be Label Studio's
            pass
    for_scope = CacheKey(f"{scope} at {studio_url}: {value}", is_immutable=False)
    full = value if "://" in value else f"{studio_url}/{value.removeprefix('/')}"
    try:
        parts, prefix = urlsplit(full), urlsplit(studio_url).path
    except ValueError:  # not an address; fetching it will report that
        return for_scope
    if origin_of(full) == origin_of(studio_url):
        is_upload = parts.path.startswith(f"{prefix}{_UPLOADS}") and ".." not in parts.path
        return (
            CacheKey(f"{studio_url}{parts.path}?{parts.query}", is_immutable=True) if is_upload else for_scope
        )
    return CacheKey(full, is_immutable=False) if parts.scheme.lower() in DEFAULT_PORT else for_scope


def checked_address(value: str, field: str) -> str:
    """An address of task data without the spaces around it.

    Raises BadImage when it contains a lone surrogate (half a character, which JSON allows). No file and no
    address can contain one.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadImage("the address holds half a character", field=field) from None
    return value.strip()


def short_address(address: str) -> str:
    """An address fit for a message: no query (it may hold a signature), no user, cut at 200 characters."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        host = f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return "an address that cannot be read"
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme and host else address.split("?")[0]
    return text if len(text) <= 200 else text[:197] + "…"


def scheme_of(address: str, field: str) -> str:
    """Scheme of an address, empty if it has none; BadImage when host or port cannot be read."""
    try:
        parts = urlsplit(address)
        _ = parts.hostname, parts.port  # both are parsed (and refused) only when asked for
    except ValueError as error:
        raise BadImage(f"not an address ({error})", field=field) from None
    return parts.scheme.lower()


def joined(address: str, location: str, field: str) -> str:
    try:
        return urljoin(address, location)
    except ValueError as error:
        raise BadImage(f"{short_address(address)} redirects to no address ({error})", field=field) from None


def origin_of(address: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(address)
        scheme = parts.scheme.lower()
        return scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORT.get(scheme, 0)
    except ValueError:
        return "", "", 0


def file_path(value: str) -> Path | None:
    """The file of a file:// address or an absolute path. None for others and for Label Studio's paths."""
    if value.startswith("file://"):
        try:
            return Path(unquote(urlsplit(value).path))
        except ValueError:  # not an address; fetching it will report that
            return None
    if value.startswith("/") and not value.startswith(("//", *_STUDIO_FILES)) and "?" not in value:
        return Path(value)
    return None
