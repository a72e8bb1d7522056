"""Which pictures belong together, from a table: frames of one film, tiles of one plate."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ml_backend.errors import BadInput

__all__ = ["GROUP_FIELD", "picture_groups", "read_table"]

GROUP_FIELD: Final = "group"
"""field of the task data; the setting ``split_by`` names it"""


def picture_groups(pictures: Sequence[Path], table: Path) -> dict[Path, str]:
    """The group of each picture that a CSV file with the columns ``file`` and ``group`` names.

    Files are named from the folder of the table, or from the one that all pictures lie in. Rows of other
    pictures are left alone. Raises BadInput naming the row, and when no row fits any picture.
    """
    folder = (
        Path(os.path.commonpath([path.parent.resolve() for path in pictures])) if pictures else table.parent
    )
    by_file = {path.resolve(): path for path in pictures}
    found: dict[Path, str] = {}
    for name, group in read_table(table, "group"):
        for above in (table.parent, folder):
            path = by_file.get((above / name).resolve())
            if path is not None:
                found[path] = group
                break
    if not found:
        raise BadInput(
            f"no row of {table} names a picture of the project",
            field="groups",
            hint="Name files as they lie in the folder of the pictures or beside the table",
        )
    return found


def read_table(path: Path, column: str) -> list[tuple[str, str]]:
    """Rows (file, value) of a CSV file with the columns ``file`` and ``column``, without spaces around them.

    Raises BadInput naming file and line for a file that cannot be read and for empty fields.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = sorted({"file", column} - set(reader.fieldnames or ()))
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {error}", field=path.name) from error
    if missing:
        raise BadInput(
            f"the table has no column {missing[0]!r}",
            field=path.name,
            hint=f"Its first line must name the columns: file,{column}",
        )
    out = []
    for number, row in enumerate(rows, start=2):
        name, value = (row["file"] or "").strip(), (row[column] or "").strip()
        if not name or not value:
            raise BadInput(f"a file and a {column} are needed", field=f"{path.name}, line {number}")
        out.append((name, value))
    return out
