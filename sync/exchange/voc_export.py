"""Pascal VOC: an XML file per picture in ``Annotations``, masks in ``SegmentationObject`` and ``…Class``.

Boxes count pixels from 1 and the last one belongs to the box, in whole numbers, as readers of this format
expect. The number of an object in SegmentationObject is its place in the XML file. ``origin`` of an
object, which VOC does not know and readers skip, says where it comes from. Pictures go into ``JPEGImages``
when they are asked for; a picture keeps its own format.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

from ml_backend.artifacts.files import publish_dir
from ml_backend.errors import BadInput
from sync.exchange.content import Content, Item, Shown
from sync.exchange.file_names import OtherEndings
from sync.exchange.masks_export import index_png
from sync.exchange.writing import (
    ORIGIN_COLUMNS,
    ExportOptions,
    box_of,
    must_be_new,
    picture_name,
    wanted_of,
)

__all__ = ["write_voc"]

_MOST_LABELS = 254


def write_voc(content: Content, out: Path, options: ExportOptions) -> None:
    """Write the new folder ``out``. Raises BadInput when it is there, or for over 254 labels of masks."""
    must_be_new(out)
    unit = wanted_of(content)
    masks = {label for label, what in unit.items() if what == "mask"} if not options.boxes else set()
    if masks and len(content.labels) > _MOST_LABELS:
        raise BadInput(f"{len(content.labels)} labels do not fit into 8 bits", field="format")
    number = {label: place for place, label in enumerate(content.labels, start=1)}
    names = OtherEndings(content.names, ".xml")
    with publish_dir(out) as folder:
        for picture in content.pictures:
            items = [item for item in picture.items if item.rle is not None]
            name = names[picture.task_id]
            shown = picture_name(name, ".xml", picture.file_name)
            _write(folder / "Annotations" / name, _xml(picture, items, shown, segmented=bool(masks)))
            if masks:
                png = f"{name[: -len('.xml')]}.png"
                drawn = [(place, item) for place, item in enumerate(items, start=1) if item.label in masks]
                only = [item for _, item in drawn]
                places = [place for place, _ in drawn]
                classes = [number[item.label] for item in only]
                _write(folder / "SegmentationObject" / png, index_png(picture.hw, only, places))
                _write(folder / "SegmentationClass" / png, index_png(picture.hw, only, classes))
            if options.picture is not None:
                _write(folder / "JPEGImages" / shown, options.picture(picture))
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in content.labels), "utf-8")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _xml(picture: Shown, items: list[Item], shown: str, *, segmented: bool) -> bytes:
    root = ET.Element("annotation")
    path = PurePosixPath(shown)
    _text(root, "folder", path.parent.as_posix() if path.parent.name else "JPEGImages")
    _text(root, "filename", path.name)
    size = ET.SubElement(root, "size")
    for tag, value in (("width", picture.hw[1]), ("height", picture.hw[0]), ("depth", 3)):
        _text(size, tag, value)
    _text(root, "segmented", int(segmented))
    for item in items:
        found = ET.SubElement(root, "object")
        _text(found, "name", item.label)
        for tag, word in (("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
            _text(found, tag, word)
        box = ET.SubElement(found, "bndbox")
        for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), _whole(item, picture.hw), strict=True):
            _text(box, tag, edge)
        origin = ET.SubElement(found, "origin")
        for column in ORIGIN_COLUMNS:
            if item.origin.get(column) is not None:
                _text(origin, column, item.origin[column])
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8"))


def _whole(item: Item, hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in whole pixels counted from 1, at least one pixel large."""
    x0, y0, x1, y1 = box_of(item)
    left, top = min(max(round(x0), 0), hw[1] - 1), min(max(round(y0), 0), hw[0] - 1)
    return left + 1, top + 1, min(max(round(x1), left + 1), hw[1]), min(max(round(y1), top + 1), hw[0])


def _text(parent: ET.Element, tag: str, value: object) -> None:
    # XML knows no control characters
    ET.SubElement(parent, tag).text = "".join(c for c in str(value) if c >= " ")
