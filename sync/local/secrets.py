"""Passwords and tokens of an embedded installation: made once, kept in one file only its owner can read."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import StorageError

__all__ = ["BACKEND_USER", "Secrets", "load_secrets"]

BACKEND_USER = "groundswell"
"""User name of the backend's Basic auth, where none is set."""


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The secrets of an embedded installation; they are left out when this object is printed."""

    email: str
    password: str
    token: str
    webhook_secret: str
    signing_key: str
    backend_password: str

    def __repr__(self) -> str:
        return f"Secrets({self.email!r})"


def load_secrets(data_dir: Path, *, email: str = "admin@groundswell.local") -> Secrets:
    """Read ``data_dir/secrets.json``, or make it (mode 0600) at the first call.

    Two first calls at once agree: the file is created exclusively and the second one reads it. A file of an
    older version has no ``backend_password``: it is then made from the signing key, so all processes get the
    same one. Raises StorageError when the file is there but cannot be understood.
    """
    path = data_dir / "secrets.json"
    with storage_errors(path):
        data_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path, email)
        try:
            raw = json.loads(path.read_text())
            raw.setdefault("backend_password", _derived(str(raw.get("signing_key", "")), "backend password"))
            return Secrets(**{field.name: str(raw[field.name]) for field in fields(Secrets)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{path} cannot be understood ({error})",
                hint="Restore it; without it the login of the embedded Label Studio is lost",
                field="secrets.json",
            ) from error


def _derived(key: str, purpose: str) -> str:
    return hmac.new(key.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def _create(path: Path, email: str) -> None:
    made = Secrets(
        email=email,
        password=secrets.token_urlsafe(12),
        token=secrets.token_hex(20),
        webhook_secret=secrets.token_urlsafe(24),
        signing_key=secrets.token_urlsafe(32),
        backend_password=secrets.token_urlsafe(24),
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(made), file, indent=1)
    # a rename would replace the file of a process that was faster; a link fails and keeps it
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
