"""Read and check COCO annotation files, for the demo, evaluation and pool commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco_mask

from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.instances import Rle
from ml_backend.masks.outlines import check_outline
from ml_backend.masks.rle import parse_rle

__all__ = ["CocoImage", "CocoSet", "box_to_rle", "load_coco", "segmentation_to_rle"]

_FAR: Final = 1e9
"""Coordinates beyond this are rejected: no picture is so large."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image and its true instances.

    Attributes
    ----------
    image_id : COCO id
    path : file on disk (it exists)
    hw : height and width in pixels, as the annotation file says
    label : per instance, index into ``CocoSet.categories``
    rle : per instance, COCO RLE at ``hw``, counts as str
    boxes_only : per instance, True where the file gave a box and no mask (the RLE is the filled box)
    """

    image_id: int
    path: Path
    hw: tuple[int, int]
    label: tuple[int, ...]
    rle: tuple[Rle, ...]
    boxes_only: tuple[bool, ...]

    def example(self, *, task_id: int | None = None) -> Example:
        """This image as a training example; ``task_id`` defaults to the COCO id."""
        return Example(self.image_id if task_id is None else task_id, self.path, self.label, self.rle)


@dataclass(frozen=True, slots=True)
class CocoSet:
    """A COCO file: category names in file order and its images in file order. Crowd regions are left out."""

    categories: tuple[str, ...]
    images: tuple[CocoImage, ...]

    @property
    def n_instances(self) -> int:
        return sum(len(image.label) for image in self.images)

    def examples(self) -> list[Example]:
        return [image.example() for image in self.images]


def box_to_rle(xywh: tuple[float, float, float, float], hw: tuple[int, int]) -> Rle:
    """COCO RLE of the filled box (x, y, width, height in pixels), cut at the image border."""
    x, y, w, h = xywh
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return _as_text(coco_mask.frPyObjects([corners], hw[0], hw[1])[0])


def load_coco(images_dir: Path, annotations_json: Path) -> CocoSet:
    """Read a COCO instances file whose images lie in ``images_dir``.

    Masks may be polygons, compressed RLE, uncompressed RLE or, where ``segmentation`` is empty, just a
    box. ``iscrowd`` regions are left out: they are not single instances. Raises BadInput naming the record.
    """
    document = _read_document(annotations_json)
    categories, index_of = _categories(document)
    records = _images(document, images_dir)
    rows: dict[int, list[tuple[int, Rle, bool]]] = {image_id: [] for image_id in records}
    for i, annotation in enumerate(_records(document, "annotations")):
        field = f"annotations[{i}]"
        image_id = annotation.get("image_id")
        if image_id not in records:
            raise BadInput(f"image {image_id!r} is not in the file", field=f"{field}.image_id")
        category = annotation.get("category_id")
        if category not in index_of:
            raise BadInput(f"category {category!r} is not in the file", field=f"{field}.category_id")
        if annotation.get("iscrowd"):
            continue
        rle, boxes_only = _mask(annotation, records[image_id][1], field)
        rows[image_id].append((index_of[category], rle, boxes_only))
    images = tuple(
        CocoImage(
            image_id,
            path,
            hw,
            tuple(row[0] for row in rows[image_id]),
            tuple(row[1] for row in rows[image_id]),
            tuple(row[2] for row in rows[image_id]),
        )
        for image_id, (path, hw) in records.items()
    )
    return CocoSet(categories, images)


def _read_document(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"no file {path}", hint="Give the COCO annotation file with --coco") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadInput(f"{path} holds a {type(document).__name__}, not a COCO object")
    return document


def _records(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    records = document.get(name)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise BadInput("a list of objects is needed here", field=name, hint="Is this a COCO instances file?")
    return records


def _categories(document: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[int, int]]:
    names: list[str] = []
    index_of: dict[int, int] = {}
    for i, record in enumerate(_records(document, "categories")):
        name, identifier = record.get("name"), record.get("id")
        if not isinstance(name, str) or not name or not isinstance(identifier, int):
            raise BadInput(f"id and name are needed, got {record}", field=f"categories[{i}]")
        if identifier in index_of or name in names:
            raise BadInput(f"{name!r} (id {identifier}) is there twice", field=f"categories[{i}]")
        index_of[identifier] = len(names)
        names.append(name)
    if not names:
        raise BadInput("at least one category is needed", field="categories")
    return tuple(names), index_of


def _images(document: Mapping[str, Any], images_dir: Path) -> dict[int, tuple[Path, tuple[int, int]]]:
    found: dict[int, tuple[Path, tuple[int, int]]] = {}
    for i, record in enumerate(_records(document, "images")):
        field = f"images[{i}]"
        identifier, name = record.get("id"), record.get("file_name")
        height, width = record.get("height"), record.get("width")
        if not isinstance(identifier, int) or identifier in found:
            raise BadInput(f"an own integer id is needed, got {identifier!r}", field=f"{field}.id")
        if not isinstance(name, str) or not name:
            raise BadInput(f"a file name is needed, got {name!r}", field=f"{field}.file_name")
        if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
            raise BadInput(f"height and width are needed, got {height!r} × {width!r}", field=field)
        path = images_dir / name
        if not path.is_file():
            raise BadInput(
                f"no image {path}",
                field=f"{field}.file_name",
                hint="Give the folder of the images with --images",
            )
        found[identifier] = (path, (height, width))
    if not found:
        raise BadInput("at least one image is needed", field="images")
    return found


def segmentation_to_rle(segmentation: object, hw: tuple[int, int], *, field: str = "segmentation") -> Rle:
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as an RLE of size ``hw``.

    Raises BadInput naming ``field`` when it has another form or does not fit the image.
    """
    if isinstance(segmentation, dict):
        return parse_rle(segmentation, hw, field=field)
    if not isinstance(segmentation, list) or not segmentation:
        raise BadInput(
            "a segmentation is a list of polygons or an RLE",
            field=field,
            hint="Boxes alone are not enough here: masks are needed",
        )
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    parts = coco_mask.frPyObjects([_corners(polygon, hw, field) for polygon in polygons], *hw)
    return _as_text(coco_mask.merge(parts))


def _corners(polygon: object, hw: tuple[int, int], field: str) -> list[float]:
    """x, y, x, y, … of one polygon."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise BadInput("a polygon needs three points or more, as x, y, x, y, …", field=field)
    if not all(_is_number(v) for v in polygon):
        raise BadInput("a corner of a polygon is not a number of pixels", field=field)
    far = 4 * max(hw)  # corners far outside would cost the fill time and memory
    corners = [float(min(max(v, -far), far)) for v in polygon]
    check_outline(np.array(corners).reshape(-1, 2), hw, field=field)
    return corners


def _is_number(value: object) -> bool:
    """Whether a value can be a coordinate in an image: NaN, infinite and huge numbers cannot."""
    return isinstance(value, int | float) and abs(value) <= _FAR


def _mask(annotation: Mapping[str, Any], hw: tuple[int, int], field: str) -> tuple[Rle, bool]:
    """RLE of one annotation, and whether it is only a box."""
    segmentation = annotation.get("segmentation")
    if segmentation:
        return segmentation_to_rle(segmentation, hw, field=f"{field}.segmentation"), False
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        raise BadInput(f"neither a mask nor a box of four numbers, got {box!r:.80}", field=f"{field}.bbox")
    x, y, w, h = (float(v) for v in box)
    if w <= 0 or h <= 0:
        raise BadInput(f"the box has no area: {box!r:.80}", field=f"{field}.bbox")
    return box_to_rle((x, y, w, h), hw), True


def _as_text(rle: Mapping[str, Any]) -> Rle:
    counts = rle["counts"]
    return {
        "size": [int(v) for v in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
