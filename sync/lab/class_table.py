"""Pictures with known classes, from a table: the truth of demos of projects of kind classes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ml_backend.errors import BadInput
from ml_backend.masks.coco import CocoImage, CocoSet
from ml_backend.masks.shapes import whole_rle
from sync.projects.picture_groups import read_table

__all__ = ["load_class_table"]


def load_class_table(images_dir: Path, table: Path) -> CocoSet:
    """Read a CSV file with the columns ``file`` and ``label``; a row for each class of a picture.

    Each class of a picture becomes an instance that covers it. Files are named as they lie in ``images_dir``,
    or from the folder of the table. Raises BadInput naming the row that is wrong.
    """
    labels: list[str] = []
    of_file: dict[str, list[int]] = {}
    for number, (file, label) in enumerate(read_table(table, "label"), start=2):
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
