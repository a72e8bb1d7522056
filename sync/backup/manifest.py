"""What lies in a backup: one tar archive, its last member says what the others are.

Layout of the archive::

    store/groundswell.db        the store of SQLite, one file; or
    store/groundswell.dump      the store of Postgres, as ``pg_dump --format=custom`` writes it
    data/…                      files of the data directory, under the names they have there
    manifest.json               versions, and size and SHA-256 of every other member
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "DATA",
    "FORMAT",
    "MANIFEST",
    "STORE_FILES",
    "FileEntry",
    "Manifest",
    "StoreKind",
    "listed",
    "release",
]

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DATA: Final = "data/"

StoreKind = Literal["sqlite", "postgresql"]
STORE_FILES: Final[dict[StoreKind, str]] = {
    "sqlite": "store/groundswell.db",
    "postgresql": "store/groundswell.dump",
}


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 (64 hexadecimal digits) of one member."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What a backup is made of, and by what.

    ``schema_revision`` is that of the store's tables (``sync.store.migrate``). ``models`` and ``pools`` say
    which of them were taken, ``secrets`` which members hold passwords or keys.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int
    groundswell: str
    schema_revision: str
    store: StoreKind
    made_at: str
    models: str
    pools: str
    secrets: tuple[str, ...]
    files: dict[str, FileEntry]


def listed(name: str) -> str:
    """A member's name in the manifest: bytes that are no UTF-8 are written out, as JSON cannot hold them."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def release() -> str:
    """The version of Groundswell that runs."""
    try:
        return version("groundswell")
    except PackageNotFoundError:  # a checkout that nobody installed
        return "unknown"
