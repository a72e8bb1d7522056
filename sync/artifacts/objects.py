"""The object store behind ``artifacts_url``: any file system that fsspec knows (folder, memory, S3, …).

Objects are written once, under names that nobody else uses, and never changed: object stores cannot rename.
Which object counts is said by the worker's database (``sync.artifacts.manifest``). Credentials come from the
environment, where the file system's own package reads them. They are no part of addresses, so messages may
show those. Of an error of the file system, messages show its kind alone.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import BadInput, StorageError

__all__ = ["Objects", "Written", "file_digest", "open_objects"]

_BLOCK: Final = 1024**2
_EXTRAS: Final = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written or read: hex SHA-256 and bytes of the content, and when the local file was changed."""

    digest: str
    size: int
    mtime_ns: int


class Objects:
    """Objects below one address. Safe under threads.

    Every method raises StorageError, which names the object and what kind of error it was.
    """

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self.url = url
        self._fs = fs
        self._root = root.rstrip("/")
        self._protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)

    @staticmethod
    def new_key(folder: str, path: str) -> str:
        """A name for the next content of ``path``, which nothing has had before."""
        return f"{folder}/{path}.{secrets.token_hex(8)}"

    def upload(self, source: Path, key: str) -> Written:
        """Write a local file to a new object."""
        place = self._place(key)
        found = hashlib.sha256()
        with self._errors("write", key), source.open("rb") as file:
            self._make_folder(place)
            with self._fs.open(place, "wb") as out:
                while block := file.read(_BLOCK):
                    found.update(block)
                    out.write(block)
                if "file" in self._protocols:  # the pointer to it will be durable, so it must be
                    out.flush()
                    os.fsync(out.fileno())
            stat = os.fstat(file.fileno())
        return Written(found.hexdigest(), stat.st_size, stat.st_mtime_ns)

    def download(self, key: str, target: Path, *, digest: str) -> None:
        """Read an object into a new local file; StorageError when its content is not what was written."""
        found = hashlib.sha256()
        with (
            self._errors("read", key),
            self._fs.open(self._place(key), "rb") as file,
            target.open("xb") as out,
        ):
            while block := file.read(_BLOCK):
                found.update(block)
                with storage_errors(target):  # the disk here is full, not the store
                    out.write(block)
            with storage_errors(target):
                out.flush()
                os.fsync(out.fileno())
        if found.hexdigest() != digest:
            raise StorageError(
                f"{self.url}: the content of {key} is not what was written there",
                hint="Something else writes below artifacts_url; restore the object, or a backup",
            )

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there counts as deleted."""
        with self._errors("delete", key):
            try:
                self._fs.rm_file(self._place(key))
            except FileNotFoundError:
                return

    def check(self) -> None:
        """Write, read and delete a small object."""
        key = self.new_key("check", "probe")
        with self._errors("write", key):
            self._make_folder(self._place(key))
            self._fs.pipe_file(self._place(key), b"ok")
        with self._errors("read", key):
            is_same = self._fs.cat_file(self._place(key)) == b"ok"
        self.delete(key)
        if not is_same:
            raise StorageError(f"{self.url} gave back something else than was written")

    def _make_folder(self, place: str) -> None:
        """Object stores know no folders, and making one there could make a bucket."""
        if not self._protocols & set(_EXTRAS):
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)

    def _place(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _errors(self, what: str, key: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # file systems raise what their libraries raise
            # texts of errors may hold signed addresses, so neither the text nor a traceback with it is kept
            raise StorageError(
                f"{self.url}: cannot {what} {key} ({_kind(error)})",
                hint="Is the store up, does its bucket exist, and may this machine use it? Credentials come "
                "from the environment",
            ) from None


def open_objects(url: str) -> Objects:
    """The objects below an address. Nothing is asked yet, so a store that is away is found out later.

    Raises BadInput when the address cannot be used or a package for it is missing.
    """
    import fsspec
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    package = _EXTRAS.get(protocol, "")
    try:
        fs, root = url_to_fs(url)
    except ImportError as error:
        hint = "pip install 'groundswell[s3]'" if package == "s3fs" else f"pip install {package or 'it'}"
        raise BadInput(
            f"{protocol}:// needs a package that is not installed",
            field="GROUNDSWELL_ARTIFACTS_URL",
            hint=hint,
        ) from error
    except ValueError:
        raise BadInput(
            f"fsspec knows no {protocol}://",
            field="GROUNDSWELL_ARTIFACTS_URL",
            hint=f"Some that it knows: file, s3, gs, abfs (of {len(fsspec.available_protocols())})",
        ) from None
    return Objects(url, fs, root)


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kind(error: BaseException) -> str:
    """Kind of an error, with the code that the service gave or the system's word for it."""
    cause: BaseException | None = error
    code = ""
    while cause is not None and not code:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__
    if not code and isinstance(error, OSError) and error.errno is not None:
        code = os.strerror(error.errno)
    return f"{type(error).__name__}: {code}" if code else type(error).__name__
