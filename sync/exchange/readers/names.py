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
        # every scalar as it stands there: "no" and "1.10" are names of labels like others
        document = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}", field="names") from error
    names = document.get("names") if isinstance(document, Mapping) else None
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    # text only: aliases inside of aliases would become a name of gigabytes
    if not isinstance(names, Mapping) or not names or not all(_is_entry(*one) for one in names.items()):
        raise BadInput(f"{path} has no list of names", field="names", hint="names: [cat, dog]")
    return {int(number): name for number, name in names.items()}


def _is_entry(number: object, name: object) -> bool:
    return isinstance(number, str) and number.isdecimal() and len(number) < 10 and isinstance(name, str)


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
