"""What every writer of an export gets, and what several of them share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from ml_backend.errors import BadInput
from sync.exchange.content import Content, Item, Shown

__all__ = ["ORIGIN_COLUMNS", "ExportOptions", "Origins", "box_of", "must_be_new", "picture_name", "wanted_of"]

ORIGIN_COLUMNS: Final = (
    "source",
    "score",
    "round",
    "model_version",
    "purity_lower",
    "purity_upper",
    "confidence",
    "person",
    "annotation",
    "task",
)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How an export is written.

    ``boxes``: boxes around masks instead of the masks, where a format knows both. ``picture`` gives the bytes
    of a picture, for formats that come with their pictures; None leaves them out.
    """

    boxes: bool = False
    picture: Callable[[Shown], bytes] | None = None


class Origins:
    """``origins.csv``: where each row of a format comes from that has no place for it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._write(("file", "row", "label", *ORIGIN_COLUMNS))

    def add(self, name: str, row: int, item: Item, task: int) -> None:
        """The origin of row ``row`` (from 1) of the file ``name``."""
        origin = {**item.origin, "task": task}
        self._write((name, row, item.label, *(origin.get(column, "") for column in ORIGIN_COLUMNS)))

    def _write(self, row: Sequence[Any]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow(["" if value is None else value for value in row])
        self._file.write(text.getvalue().encode())


def must_be_new(out: Path) -> None:
    """Raise BadInput when there is something at ``out`` already."""
    if out.exists():
        raise BadInput(f"{out} is there already", field="out", hint="Name a folder that does not exist yet")


def picture_name(changed: str, ending: str, file_name: str) -> str:
    """Name of a picture beside a file ``changed`` of other ``ending``: alike but for the ending."""
    return changed[: -len(ending)] + PurePosixPath(file_name).suffix


def wanted_of(content: Content) -> dict[str, str]:
    """Unit (``mask``, ``box`` or ``picture``) by label."""
    return {label: target.is_of.unit for target in content.wanted for label in target.labels}


def box_of(item: Item) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels: the box as drawn or found, else the one around the mask."""
    from ml_backend.masks.rle import rle_box

    if len(item.box_xyxy) == 4:
        x0, y0, x1, y1 = (float(edge) for edge in item.box_xyxy)
        return x0, y0, x1, y1
    return (0.0, 0.0, 0.0, 0.0) if item.rle is None else rle_box(item.rle)
