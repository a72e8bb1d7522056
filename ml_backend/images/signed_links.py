"""Signed links: reviewers' browsers load crops without a login, but only through links that we made.

A signature covers path and expiry time, so a link cannot be guessed or used for another picture. Links of
review tasks do not expire by default, because a task lives as long as its project. The key can be replaced;
links made with older keys stay valid.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import itsdangerous

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import StorageError
from ml_backend.settings import BackendSettings

__all__ = ["LinkSigner", "crop_path", "crop_url", "signing_keys"]

_KEY_BYTES: Final = 16


class _ShortHmac(itsdangerous.HMACAlgorithm):
    """HMAC-SHA256, the first 16 bytes: 128 bits cannot be guessed, and the address stays short."""

    def __init__(self) -> None:
        super().__init__(hashlib.sha256)

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return super().get_signature(key, value)[:16]


class LinkSigner:
    """Signs paths with one key; accepts links signed with this one or an older one."""

    def __init__(self, key: bytes, *, older: Sequence[bytes] = ()) -> None:
        if any(len(one) < _KEY_BYTES for one in (key, *older)):
            raise ValueError(f"a signing key needs at least {_KEY_BYTES} bytes")
        # keys are random or hashed already, so no key derivation is needed
        self._signer = itsdangerous.Signer([*older, key], key_derivation="none", algorithm=_ShortHmac())

    @classmethod
    def from_settings(cls, settings: BackendSettings) -> LinkSigner:
        """The key of the settings, or one that is made once and kept in ``data_dir/signing.key``.

        Links made with the older keys of the settings, or with the kept key, stay valid. Raises StorageError
        when the kept key is damaged.
        """
        *older, key = signing_keys(settings)
        return cls(key, older=older)

    def sign(self, path: str, *, expires_at: int = 0) -> str:
        """Query string of a signed link; ``expires_at`` in seconds since 1970, 0 = never."""
        query = f"sig={self._signer.get_signature(_signed_text(path, expires_at)).decode()}"
        return f"{query}&exp={expires_at}" if expires_at else query

    def verify(self, path: str, signature: str, expires: str = "", *, now: float | None = None) -> bool:
        """Whether a link is ours and not expired; takes the same time for any wrong signature."""
        if expires and not (expires.isascii() and expires.isdigit() and len(expires) < 15):
            return False
        expires_at = int(expires or 0)
        if not self._signer.verify_signature(_signed_text(path, expires_at), signature.encode()):
            return False
        return expires_at == 0 or (time.time() if now is None else now) < expires_at


def signing_keys(settings: BackendSettings) -> list[bytes]:
    """The installation's keys, the one that signs last (``LinkSigner.from_settings``). Raises StorageError.

    What is not a link (an invite, a login) signs with keys derived from these.
    """
    given = settings.signing_key.get_secret_value()
    older = [_spread(k.strip()) for k in settings.old_signing_keys.get_secret_value().split(",") if k.strip()]
    kept = settings.data_dir / "signing.key"
    if not given:
        return [*older, _kept_key(kept)]
    if kept.exists():
        older.append(_kept_key(kept))
    return [*older, _spread(given)]


def _signed_text(path: str, expires_at: int) -> bytes:
    return f"{path}\n{expires_at}".encode()


def _spread(key: str) -> bytes:
    """32 bytes from a key of any length that a person chose."""
    return hashlib.sha256(key.encode()).digest()


def crop_path(project_id: int, key: str) -> str:
    """Path of a crop below the backend's address."""
    return f"/crops/{project_id}/{quote(key, safe='')}.jpg"


def crop_url(settings: BackendSettings, project_id: int, key: str, *, expires_at: int = 0) -> str:
    """Signed address of a crop as browsers reach it."""
    path = crop_path(project_id, key)
    query = LinkSigner.from_settings(settings).sign(path, expires_at=expires_at)
    return f"{settings.backend_url.rstrip('/')}{path}?{query}"


def _kept_key(path: Path) -> bytes:
    """The key in a file, made now if there is none: the first process wins. Only its user can read it."""
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
    if len(found) < _KEY_BYTES:
        raise StorageError(
            f"{path} does not hold a key", hint="Delete it; links made with the old key will stop working"
        )
    return found
