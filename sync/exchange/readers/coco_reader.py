"""COCO instances files: polygons, compressed and uncompressed run lengths, boxes.

A list of results, as detectors write it, is read beside the instances file that has its images and
categories; it speaks of the images that it names, not of the others. Files are read as streams and their rows
are grouped on disk, so their size does not matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ijson

from ml_backend.errors import BadInput
from sync.exchange.readers.json_depth import ShallowJson
from sync.exchange.readers.rows import PictureRows, Problem, Row, Shape
from sync.exchange.readers.spool import Spool

__all__ = ["CocoReader"]


class CocoReader:
    """See ``sync.exchange.readers.rows.Reader``.

    ``about`` is the file with the images and categories of a list of results. Raises BadInput when this is no
    COCO file, or when ``about`` is missing or not needed.
    """

    def __init__(self, path: Path, about: Path | None = None) -> None:
        self._is_list = _first_character(path) == b"["
        if self._is_list and about is None:
            raise BadInput(
                f"{path} is a list of results, without images and categories",
                field="classes",
                hint="Name the COCO file that has them: --classes instances.json",
            )
        if about is not None and not self._is_list:
            raise BadInput(f"{path} names its labels", field="classes", hint="Leave --classes away")
        self._path = path
        self._about = about or path
        self._label_of = _categories(self._about)
        self.labels: Sequence[str] = tuple(self._label_of.values())

    def pictures(self) -> Iterator[PictureRows | Problem]:
        part = "item" if self._is_list else "annotations.item"
        with Spool() as spool:
            spool.fill("images", ((_key(row, "id"), row) for row in _records(self._about, "images.item")))
            spool.fill(
                "annotations",
                ((_key(row, "image_id"), row) for row in _records(self._path, part)),
            )
            for _, number in spool.strays("annotations", "images"):
                row = f"annotations[{number}]"
                yield Problem("rejected", str(self._path), row, "image_id", "the file has no such image")
            for key in spool.keys("images"):
                (number, record), *doubles = spool.of("images", key)
                for double, _ in doubles:
                    where = f"images[{double}]"
                    yield Problem("rejected", str(self._path), where, "id", "another image has this id")
                annotations = spool.of("annotations", key)
                if annotations or not self._is_list:
                    yield self._picture(f"images[{number}]", record, annotations)

    def _picture(
        self, where: str, record: Any, annotations: Sequence[tuple[int, Any]]
    ) -> PictureRows | Problem:
        file = str(self._path)
        name = record.get("file_name") if isinstance(record, dict) else None
        if not isinstance(name, str) or not name:
            return Problem("rejected", file, where, "file_name", f"a file name is needed, got {name!r}")
        height, width = record.get("height"), record.get("width")
        hw = None
        if all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in (height, width)):
            hw = (height, width)
        rows: list[Row] = []
        problems: list[Problem] = []
        for number, annotation in annotations:
            place = f"annotations[{number}]"
            if not isinstance(annotation, dict):
                problems.append(Problem("rejected", file, place, "", "no object", name))
                continue
            label = self._label_of.get(_key(annotation, "category_id"))
            if label is None:
                text = f"category {annotation.get('category_id')!r} is not in the file"
                problems.append(Problem("rejected", file, place, "category_id", text, name))
            elif annotation.get("iscrowd"):
                text = "a crowd region holds several objects"
                problems.append(Problem("left out", file, place, "iscrowd", text, name))
            else:
                rows.append(Row(place, label, _shape(annotation), _score(annotation.get("score"))))
        return PictureRows(file, name, hw, rows, problems)


def _shape(annotation: dict[str, Any]) -> Shape:
    box = annotation.get("bbox")
    segmentation = annotation.get("segmentation") or None
    corners: Sequence[float] | None = None
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        x, y, width, height = box
        corners = (x, y, x + width, y + height)
    return Shape(corners, segmentation, rotated=_rotated(annotation, segmentation))


def _rotated(annotation: dict[str, Any], segmentation: Any) -> Sequence[float]:
    """A rotated box as our own export writes it: its four corners, and the degrees beside them."""
    degrees = annotation.get("rotation")
    if (
        degrees is None
        or not _is_number(degrees)
        or not isinstance(segmentation, list)
        or len(segmentation) != 1
    ):
        return ()
    ring = segmentation[0]
    if not isinstance(ring, list) or len(ring) != 8 or not all(map(_is_number, ring)):
        return ()
    x0, y0, x1, y1, x2, y2 = ring[:6]
    width, height = math.hypot(x1 - x0, y1 - y0), math.hypot(x2 - x1, y2 - y1)
    return (x0, y0, width, height, degrees)


def _score(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(record: Any, field: str) -> str:
    return json.dumps(record.get(field) if isinstance(record, dict) else None)


def _categories(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    names: set[str] = set()
    for number, record in enumerate(_records(path, "categories.item")):
        name = record.get("name") if isinstance(record, dict) else None
        if not isinstance(name, str) or not name or record.get("id") is None:
            raise BadInput(f"id and name are needed, got {record!r:.80}", field=f"categories[{number}]")
        if _key(record, "id") in found or name in names:
            raise BadInput(f"{name!r} is there twice", field=f"categories[{number}]")
        found[_key(record, "id")] = name
        names.add(name)
    if not found:
        raise BadInput(
            f"{path} has no categories",
            field="categories",
            hint="Is this a COCO instances file, with images, annotations and categories?",
        )
    return found


def _first_character(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}", field="path") from error


def _records(path: Path, part: str) -> Iterator[Any]:
    """The entries of one list of the file (a prefix of ijson), one at a time."""
    try:
        with path.open("rb") as file:
            yield from ijson.items(ShallowJson(file, path), part, use_float=True)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}", field="path") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not readable as JSON: {error}", field=part) from error
