"""The pictures of a data set on disk, found by the names that its files use."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from unicodedata import normalize

__all__ = ["LocalPictures"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class LocalPictures:
    """Pictures below ``folder``; None: there are none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._by_stem: dict[str, list[PurePosixPath]] = {}
        self._by_name: dict[str, list[PurePosixPath]] = {}
        if folder is None:
            return
        for place, _, names in os.walk(folder):
            below = PurePosixPath(Path(place).relative_to(folder).as_posix())
            for name in names:
                path = below / name
                if path.suffix.lower() in _SUFFIXES:
                    self._by_stem.setdefault(normalize("NFC", path.stem), []).append(path)
                    self._by_name.setdefault(normalize("NFC", path.name), []).append(path)

    def find(self, name: str, *, no_suffix: bool) -> Path | None:
        """The picture, None when it is not there or several may be meant."""
        if self._folder is None:
            return None
        given = PurePosixPath(name)
        found = (self._by_stem if no_suffix else self._by_name).get(normalize("NFC", given.name), [])
        if len(found) > 1:
            exact = given.parent
            found = [path for path in found if path.parent == exact] or [
                path for path in found if path.parent.parts[-len(exact.parts) :] == exact.parts
            ]
        return self._folder / found[0] if len(found) == 1 else None
