"""Folders that travel in pieces of a few MiB, so that neither side ever holds a whole one in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ml_backend.errors import StorageError

__all__ = ["PIECE_BYTES", "Arriving", "Piece", "file_pieces", "folder_pieces"]

PIECE_BYTES: Final = 8 * 1024**2
"""what is sent at once, roughly"""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bytes of the file ``name``, a path relative to the folder, with slashes."""

    name: str
    data: bytes


def file_pieces(path: Path, name: str) -> Generator[Piece]:
    """The pieces of one file, at least one. Raises FileNotFoundError."""
    with path.open("rb") as file:
        data = file.read(PIECE_BYTES)
        yield Piece(name, data)
        while data := file.read(PIECE_BYTES):
            yield Piece(name, data)


def folder_pieces(folder: Path) -> Generator[list[Piece], None, str]:
    """The files of a folder and those below it, in batches; returns the digest of all.

    Hidden files are left out: one that is just being written has such a name.
    """
    digest = hashlib.sha256()
    batch: list[Piece] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            continue
        for piece in file_pieces(path, relative.as_posix()):
            _add(digest, piece)
            batch.append(piece)
            if sum(len(each.data) for each in batch) >= PIECE_BYTES:
                yield batch
                batch = []
    if batch:
        yield batch
    return digest.hexdigest()


class Arriving:
    """Writes pieces as they come to files below ``root``, which is made when there is something."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._digest = hashlib.sha256()

    def add(self, pieces: Sequence[Piece]) -> None:
        """Append. Raises StorageError for a name that leads out of the folder."""
        for piece in pieces:
            name = PurePosixPath(piece.name)
            if name.is_absolute() or ".." in name.parts or not name.parts:
                raise StorageError(f"a file that came is called {piece.name!r}, which is no place below here")
            path = self._root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(piece.data)
            _add(self._digest, piece)

    def finish(self, digest: str) -> None:
        """Compare with the digest of what was sent. Raises StorageError when it is another one."""
        if self._digest.hexdigest() != digest:
            raise StorageError("the files that came are not those that were sent", hint="Try again")


def _add(digest: hashlib._Hash, piece: Piece) -> None:
    digest.update(f"{piece.name}\0{len(piece.data)}\0".encode())
    digest.update(piece.data)
