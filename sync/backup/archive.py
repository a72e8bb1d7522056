"""Reading a backup that may come from anywhere: nothing is unpacked before all of it was checked.

Only regular files under the names of ``manifest`` are accepted: no path that leads elsewhere, no link, no
device, no name twice. Every member must have the size and the SHA-256 that the manifest says, and every file
of the manifest must be there.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pydantic import ValidationError

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import BadInput
from sync.backup.choice import SECRETS
from sync.backup.manifest import DATA, FORMAT, MANIFEST, STORE_FILES, FileEntry, Manifest, listed

__all__ = ["CheckedArchive", "check_archive", "unpack"]

_MANIFEST_BYTES: Final = 256 * 1024**2
_CHUNK: Final = 1024**2


@dataclass(frozen=True, slots=True)
class CheckedArchive:
    """An archive whose members are as its manifest says. ``digest`` is the SHA-256 of the manifest."""

    path: Path
    manifest: Manifest
    digest: str

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.size for entry in self.manifest.files.values())


def check_archive(path: Path) -> CheckedArchive:
    """Read the whole archive and compare it with its manifest; nothing is written.

    Raises BadInput when it is no archive of ours, is damaged or incomplete, or holds what no backup holds.
    """
    found: dict[str, FileEntry] = {}
    text = b""
    with _members(path) as members:
        for info, file in members:
            if info.name == MANIFEST:
                if info.size > _MANIFEST_BYTES:
                    raise _bad(path, "its manifest is too large")
                text = file.read()
                continue
            found[listed(info.name)] = _digest_of(info, file)
    if not text:
        raise _bad(path, "it has no manifest: it is no backup of Groundswell, or its end is missing")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _bad(path, f"its manifest cannot be understood ({where}: {first['msg']})") from None
    if manifest.format != FORMAT:
        raise _bad(
            path,
            f"it was written in form {manifest.format} by Groundswell {manifest.groundswell}, and this "
            f"release reads form {FORMAT}",
        )
    for name in sorted(found.keys() | manifest.files.keys()):
        if name not in found:
            raise _bad(path, f"{name[:200]!r} is missing")
        if name not in manifest.files:
            raise _bad(path, f"{name[:200]!r} is not in its manifest")
        if found[name] != manifest.files[name]:
            raise _bad(path, f"{name[:200]!r} is not as it was written")
    if STORE_FILES[manifest.store] not in found:
        raise _bad(path, "it holds no store")
    return CheckedArchive(path, manifest, hashlib.sha256(text).hexdigest())


def unpack(archive: CheckedArchive, folder: Path) -> None:
    """Write all files below ``folder``, and check each again on its way. Raises BadInput, StorageError."""
    with storage_errors(folder), _members(archive.path) as members:
        for info, file in members:
            if info.name == MANIFEST:
                continue
            target = folder / info.name
            target.parent.mkdir(parents=True, exist_ok=True)
            mode = 0o600 if target.name in SECRETS or listed(info.name) in archive.manifest.secrets else 0o666
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(handle, "wb") as out:
                written = _digest_of(info, file, out)
            if written != archive.manifest.files.get(listed(info.name)):
                raise _bad(archive.path, f"{info.name!r} changed while it was read")
            os.utime(target, (info.mtime, info.mtime))


@contextmanager
def _members(path: Path) -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes]]]]:
    """All members in order. Raises BadInput for what is no archive, and for members no backup has."""

    def each(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
        seen: set[str] = set()
        for info in tar:
            _refuse_hostile(path, info, seen)
            file = tar.extractfile(info)
            assert file is not None  # it is a regular file
            yield info, file
        while tar.fileobj is not None and tar.fileobj.read(_CHUNK):
            pass  # to the end: there lies gzip's own checksum of everything

    try:
        with tarfile.open(path, "r:*") as tar:
            yield each(tar)
    except FileNotFoundError:
        raise BadInput(f"{path} is not there", field="archive") from None
    except IsADirectoryError:
        raise BadInput(f"{path} is a folder, not an archive", field="archive") from None
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError) as error:
        raise _bad(path, f"it cannot be read: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the disk, not of gzip
            raise
        raise _bad(path, f"it cannot be read: {error}") from error


def _refuse_hostile(path: Path, info: tarfile.TarInfo, seen: set[str]) -> None:
    """``seen``: names of files so far, and those of their folders with a slash at the end; grows."""
    name = info.name
    shown = f"{name[:200]!r}"
    if not info.isreg() or info.issparse():
        raise _bad(path, f"{shown} is no plain file (a link, a device or a folder)")
    parts = name.split("/")
    known = name == MANIFEST or name in STORE_FILES.values() or (name.startswith(DATA) and len(parts) > 1)
    if not known or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise _bad(path, f"{shown} is no name that a backup uses")
    if name.startswith(DATA) and parts[1].startswith((".", "groundswell.db", "before-restore-")):
        raise _bad(path, f"{shown} is no name that a backup uses")
    if name in seen:
        raise _bad(path, f"{shown} is there twice")
    folders = {"/".join(parts[:end]) for end in range(1, len(parts))}
    if folders & seen or f"{name}/" in seen:
        raise _bad(path, f"{shown} is both a file and a folder")
    seen |= {name, *(f"{folder}/" for folder in folders)}


def _digest_of(info: tarfile.TarInfo, file: IO[bytes], out: IO[bytes] | None = None) -> FileEntry:
    """Size and hash of a member, read piece by piece and written to ``out``."""
    sha256, size = hashlib.sha256(), 0
    while piece := file.read(_CHUNK):
        sha256.update(piece)
        size += len(piece)
        if out is not None:
            out.write(piece)
    if size != info.size:
        raise BadInput(f"{info.name[:200]!r} ends too early", field="archive")
    return FileEntry(size=size, sha256=sha256.hexdigest())


def _bad(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path} cannot be restored: {why}", field="archive", hint="Nothing was changed. Try another backup"
    )
