"""Signed links: crops are shown to workers by their browsers, without a login, but only through links we
made.

A signature is HMAC-SHA256 (the first 16 bytes) over path and expiry, so a link can neither be guessed nor
moved to another picture. Links of review tasks do not expire by default: the task stays as long as its
project does.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import StorageError
from ml_backend.settings import BackendSettings

__all__ = ["Signer", "crop_path", "crop_url"]

_BYTES: Final = 16


class Signer:
    """Signs and checks paths with one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("a signing key needs at least 16 bytes")
        self._key = key

    @classmethod
    def from_settings(cls, settings: BackendSettings) -> Signer:
        """The key of the settings, or one that is made once and kept in ``data_dir/signing.key``."""
        given = settings.signing_key.get_secret_value()
        if given:  # any length a person chose: spread over 32 bytes
            return cls(hashlib.sha256(given.encode()).digest())
        return cls(_kept_key(settings.data_dir / "signing.key"))

    def sign(self, path: str, *, expires_at: int = 0) -> str:
        """Query string of a signed link; ``expires_at`` in seconds since 1970, 0 = never."""
        query = f"sig={self._signature(path, expires_at)}"
        return f"{query}&exp={expires_at}" if expires_at else query

    def verify(self, path: str, signature: str, expires: str = "", *, now: float | None = None) -> bool:
        """Whether a link is ours and still holds; takes the same time for any wrong signature."""
        if expires and not (expires.isascii() and expires.isdigit() and len(expires) < 15):
            return False
        expires_at = int(expires or 0)
        right = hmac.compare_digest(self._signature(path, expires_at).encode(), signature.encode())
        return right and (expires_at == 0 or (time.time() if now is None else now) < expires_at)

    def _signature(self, path: str, expires_at: int) -> str:
        digest = hmac.new(self._key, f"{path}\n{expires_at}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:_BYTES]).decode().rstrip("=")


def crop_path(project_id: int, key: str) -> str:
    """Path of a crop below the backend's address."""
    return f"/crops/{project_id}/{quote(key, safe='')}.jpg"


def crop_url(settings: BackendSettings, project_id: int, key: str, *, expires_at: int = 0) -> str:
    """Signed address of a crop as browsers reach it."""
    path = crop_path(project_id, key)
    query = Signer.from_settings(settings).sign(path, expires_at=expires_at)
    return f"{settings.backend_url.rstrip('/')}{path}?{query}"


def _kept_key(path: Path) -> bytes:
    """Read the key, or make it: the first process wins; readable by its user only."""
    with storage_errors(path):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
            try:
                os.link(staging, path)
            except FileExistsError:
                pass  # another process was faster: theirs is the key
            finally:
                staging.unlink()
        try:
            found = bytes.fromhex(path.read_text().strip())
        except ValueError:
            found = b""
    if len(found) < 16:
        raise StorageError(
            f"{path} does not hold a key", hint="Delete it; links made with the old key will stop working"
        )
    return found
