"""Pictures with known classes, from a table: the truth of demos of projects of kind classes."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from ml_backend.errors import BadInput
from ml_backend.masks.coco import CocoImage, CocoSet
from ml_backend.masks.shapes import whole_rle

__all__ = ["load_class_table"]


def load_class_table(images_dir: Path, table: Path) -> CocoSet:
    """Read a CSV file with the columns ``file`` and ``label``; a row for each class of a picture.

    Each class of a picture becomes an instance that covers it. Files are named as they lie in ``images_dir``,
    or from the folder of the table. Raises BadInput naming the row that is wrong.
    """
    labels: list[str] = []
    of_file: dict[str, list[int]] = {}
    for number, (file, label) in enumerate(_rows(table), start=2):
        if not file or not label:
            raise BadInput("a file and a label are needed", field=f"{table.name}, line {number}")
        if _find(images_dir, table, file) is None:
            raise BadInput(
                f"no picture {images_dir / file}",
                field=f"{table.name}, line {number}",
                hint="Give the folder of the pictures with --images",
            )
        if label not in labels:
            labels.append(label)
        found = of_file.setdefault(file, [])
        if labels.index(label) not in found:
            found.append(labels.index(label))
    if not of_file:
        raise BadInput("the table holds no picture", field=table.name)
    images = []
    for number, (file, found) in enumerate(of_file.items(), start=1):
        path = _find(images_dir, table, file)
        assert path is not None, "checked above"
        try:
            with Image.open(path) as picture:
                hw = (picture.height, picture.width)
        except OSError as error:
            raise BadInput(f"{path} is no picture: {error}", field=table.name) from error
        images.append(
            CocoImage(number, path, hw, tuple(found), (whole_rle(hw),) * len(found), (False,) * len(found))
        )
    return CocoSet(tuple(labels), tuple(images))


def _find(images_dir: Path, table: Path, file: str) -> Path | None:
    return next((path for path in (images_dir / file, table.parent / file) if path.is_file()), None)


def _rows(table: Path) -> list[tuple[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"file", "label"} - set(reader.fieldnames or ())
            if missing:
                raise BadInput(
                    f"the table has no column {sorted(missing)[0]!r}",
                    field=table.name,
                    hint="Its first line must name the columns: file,label",
                )
            return [((row["file"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{table} cannot be read: {error}", field=table.name) from error
