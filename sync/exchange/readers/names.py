"""Files that say which label a number stands for: ``data.yaml``, ``classes.txt`` and ``obj.names``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from ml_backend.errors import BadInput

__all__ = ["NAME_FILES", "find_names", "read_lines", "read_names"]

NAME_FILES: Final = ("data.yaml", "dataset.yaml", "data.yml", "classes.txt", "obj.names")


def find_names(folder: Path) -> Path | None:
    """The first such file in the folder or in the one above it."""
    places = (folder / name for folder in (folder, folder.parent) for name in NAME_FILES)
    return next((path for path in places if path.is_file()), None)


def read_names(path: Path) -> dict[int, str]:
    """Labels by number. Raises BadInput when the file does not say."""
    if path.suffix not in (".yaml", ".yml"):
        return dict(enumerate(read_lines(path)))
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read: {error}", field="names") from error
    names = document.get("names") if isinstance(document, Mapping) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names or not all(isinstance(n, int) for n in names):
        raise BadInput(f"{path} has no list of names", field="names", hint="names: [cat, dog]")
    return {int(number): str(name) for number, name in names.items()}


def read_lines(path: Path) -> list[str]:
    """The labels of a text file, one a line. Raises BadInput when there is none."""
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", field="classes") from error
    while found and not found[-1]:
        found.pop()
    if not found:
        raise BadInput(f"{path} is empty", field="classes", hint="One label a line")
    return found
