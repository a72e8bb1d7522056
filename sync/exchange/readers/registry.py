"""Readers by the name of their format: a new one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ml_backend.errors import BadInput
from sync.exchange.readers.coco_reader import CocoReader
from sync.exchange.readers.csv_reader import CsvReader
from sync.exchange.readers.masks_reader import MasksReader
from sync.exchange.readers.rows import Reader
from sync.exchange.readers.voc_reader import VocReader
from sync.exchange.readers.yolo_reader import YoloReader

__all__ = ["READERS", "open_reader"]

Open = Callable[[Path, Sequence[str], Path | None], Reader]
READERS: Final[Mapping[str, Open]] = {
    "coco": lambda path, known, classes: CocoReader(path, classes),
    "csv": lambda path, known, classes: CsvReader(path),
    "masks": MasksReader,
    "voc": lambda path, known, classes: VocReader(path),
    "yolo": lambda path, known, classes: YoloReader(path, classes),
}


def open_reader(format: str, path: Path, known: Sequence[str], classes: Path | None = None) -> Reader:
    """The reader of a format.

    ``known`` are the labels that the files may name. ``classes`` is a file that says which label a number
    stands for, of a list of COCO results the COCO file with its images. Raises BadInput for an unknown
    format, for a path that is not there, and for files of another format.
    """
    if format not in READERS:
        raise BadInput(
            f"format {format!r} is not known", field="format", hint=f"One of {', '.join(sorted(READERS))}"
        )
    if not path.exists():
        raise BadInput(f"{path} is not there", field="path")
    if classes is not None and format in ("csv", "voc"):
        raise BadInput(f"files of format {format} name their labels", field="classes", hint="Leave it away")
    if classes is not None and not classes.is_file():
        raise BadInput(f"{classes} is no file", field="classes")
    return READERS[format](path, known, classes)
