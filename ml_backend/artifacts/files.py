"""Write files under a temporary name, then rename them. All derived files are written in this way.

A ``Guard`` is a context manager around the rename. It raises when the file must not be published any more,
for example because another worker has taken over. It is told what becomes what, so that it can also make the
file known to other machines.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Protocol

from pydantic import ValidationError

from ml_backend.errors import StorageError

__all__ = [
    "Guard",
    "format_errors",
    "open_atomic",
    "publish_dir",
    "read_json",
    "read_name",
    "storage_errors",
    "unguarded",
    "write_atomic",
    "write_json",
]


class Guard(Protocol):
    """What a block does to a file. Called without paths it only guards the block."""

    def __call__(
        self, target: Path | None = None, staged: Path | None = None
    ) -> AbstractContextManager[object]:
        """Guard a block that renames the finished file or folder ``staged`` to ``target``, or removes
        ``target`` when nothing is staged."""
        ...


def unguarded(target: Path | None = None, staged: Path | None = None) -> AbstractContextManager[object]:
    """The guard that lets everything pass."""
    return nullcontext()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission, or a folder in the way into a StorageError naming the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"no space left while writing {path}", hint="Free some space or set GROUNDSWELL_DATA_DIR"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(f"cannot write {path}", hint="Check who owns GROUNDSWELL_DATA_DIR") from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"cannot write {path}: a folder is where a file should be, or the other way round",
                hint="Name another file",
            ) from error
        raise


@contextmanager
def format_errors(path: Path, *, hint: str) -> Iterator[None]:
    """Turn what pydantic finds wrong in a file into a StorageError that names the file and the field."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{path} is damaged: {first['msg']}", field=where, hint=hint) from error


@contextmanager
def open_atomic(path: Path, *, guard: Guard = unguarded) -> Iterator[IO[bytes]]:
    """A file to write ``path`` through: a reader sees the old file or the new one, never a part.

    It becomes ``path`` when the block ends without an error. The mode of the file follows the umask, as for
    any file a program writes. Raises StorageError, and what ``guard`` raises.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with staging.open("xb") as file:  # tempfile would make it readable for its owner only
                yield file
                file.flush()
                os.fsync(file.fileno())
            with guard(path, staging):
                os.replace(staging, path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise


def write_atomic(path: Path, data: bytes, *, guard: Guard = unguarded) -> None:
    """Write ``data`` through ``open_atomic``."""
    with open_atomic(path, guard=guard) as file:
        file.write(data)


def write_json(path: Path, value: Any, *, guard: Guard = unguarded) -> None:
    """Write ``value`` as JSON, atomically, keys sorted so that equal values give equal bytes."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True).encode(), guard=guard)


def read_json(path: Path) -> Any:
    """Read a JSON file; FileNotFoundError when it is not there, ValueError when it is no JSON."""
    try:
        return json.loads(path.read_text())
    except RecursionError as error:  # a damaged file must not look like a fault of the program
        raise ValueError("brackets in brackets, too deep to read") from error


def read_name(path: Path) -> str | None:
    """The version that a file names; None when the file is empty or not there."""
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None


@contextmanager
def publish_dir(target: Path, *, guard: Guard = unguarded) -> Iterator[Path]:
    """Give a staging folder; on success rename it to ``target``, on failure remove it.

    If ``target`` exists already (an earlier run got this far), the new folder is deleted. A folder is named
    by what it was made from, so both have the same content. The mode of the folder follows the umask.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
        staging.mkdir()  # tempfile would make it readable for its owner only
        try:
            yield staging
            with guard(target, staging):
                is_new = not target.exists()
                if is_new:
                    os.replace(staging, target)
            if not is_new:
                shutil.rmtree(staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
