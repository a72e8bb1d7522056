"""Folders that travel: packed into bytes named by their digest, unpacked once on each machine.

Machines need not share a file system. The unpacked folders lie in the machine's folder for temporary files,
in one that belongs to the user and that nobody else can read. Their bytes are limited: those used longest ago
are deleted first.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ml_backend.artifacts.files import publish_dir
from ml_backend.errors import StorageError

__all__ = ["FolderCache", "cache_root", "digest_of", "pack"]

_SPARED_S = 60.0
"""folders used within so many seconds stay: another process may be loading them"""
_ABANDONED_S = 3600.0
"""age of a folder that is still being unpacked: the process that did so was killed"""


def pack(folder: Path) -> bytes:
    """The files of a folder and those below it as a tar archive; equal files give equal bytes.

    A single file becomes a folder that holds it alone. Raises StorageError when the folder is not there or
    holds nothing.
    """
    if folder.is_file():
        files, folder = [folder], folder.parent
    else:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise StorageError(f"there is nothing in {folder}", hint="Was it deleted? The next look begins anew")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            data = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def digest_of(packed: bytes | memoryview) -> str:
    """SHA-256 of a packed folder, hex."""
    return hashlib.sha256(packed).hexdigest()


def cache_root() -> Path:
    """Where this user's folders lie on this machine. Raises StorageError when somebody else made it."""
    root = Path(tempfile.gettempdir()) / f"groundswell-node-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if root.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StorageError(f"{root} does not belong to this user alone", hint="Delete it")
    return root


class FolderCache:
    """Unpacked folders below ``root``, by digest, ``max_bytes`` in all. Safe under several processes."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    def get(self, digest: str, fetch: Callable[[], bytes | memoryview]) -> Path:
        """The folder of that digest; ``fetch`` gives its packed bytes when it is not here.

        Raises StorageError when the bytes are not those of the digest, or the disk is full.
        """
        target = self._root / digest
        try:
            os.utime(target)
            return target
        except FileNotFoundError:
            pass  # not here yet
        packed = fetch()
        if digest_of(packed) != digest:
            raise StorageError(f"the bytes that came for folder {digest} are not those of this folder")
        try:
            with publish_dir(target) as staging, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(staging, filter="data")
        except StorageError:
            if not target.is_dir():  # else another process was quicker with the same folder
                raise
        self._evict(target)
        return target

    def _evict(self, spared: Path) -> None:
        found = []
        for folder in self._root.iterdir():
            try:
                if folder.name.startswith(".") and time.time() - folder.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                found.append((folder.stat().st_mtime, size, folder))
            except FileNotFoundError:  # another process deleted it
                continue
        used = sum(size for _, size, _ in found)
        for used_at, size, folder in sorted(found):
            if used <= self._max_bytes:
                return
            if folder == spared or folder.name.startswith(".") or time.time() - used_at < _SPARED_S:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            used -= size
