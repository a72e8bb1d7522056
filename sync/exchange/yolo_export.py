"""YOLO: ``data.yaml``, and in ``labels`` one text file a picture, in the layout that ultralytics reads.

A box is ``class x y width height`` (its centre), a mask ``class x1 y1 x2 y2 …``, all as shares of the
picture. Of masks, parts and holes are joined to one ring (see ``ml_backend.masks.rings``); a mask that stands
for all of a label is written part by part. A file without lines is a picture without objects. ``origins.csv``
says where each line comes from. Pictures go into ``images`` when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from ml_backend.artifacts.files import publish_dir
from ml_backend.errors import BadInput
from ml_backend.masks.components import components
from ml_backend.masks.rings import mask_ring
from sync.exchange.content import Content, Item, Shown
from sync.exchange.file_names import OtherEndings
from sync.exchange.writing import ExportOptions, Origins, box_of, must_be_new, picture_name, wanted_of

__all__ = ["write_yolo"]

_DIGITS: Final = 6


def write_yolo(content: Content, out: Path, options: ExportOptions) -> None:
    """Write the new folder ``out``. Raises BadInput when it is there, or when it would hold boxes and masks:
    readers of this format take one of both.
    """
    must_be_new(out)
    units = {unit for unit in wanted_of(content).values() if unit != "picture"}
    boxes = options.boxes or units == {"box"}
    if len(units) > 1 and not boxes:
        raise BadInput(
            "the project has boxes and masks, a YOLO data set has one of both",
            field="format",
            hint="--boxes writes boxes around the masks",
        )
    number = {label: place for place, label in enumerate(content.labels)}
    whole = {label for target in content.wanted if target.is_of.whole_labels for label in target.labels}
    names = OtherEndings(content.names, ".txt")
    with publish_dir(out) as folder, (folder / "origins.csv").open("wb") as file:
        origins = Origins(file)
        for picture in content.pictures:
            name = names[picture.task_id]
            lines: list[str] = []
            for item in picture.items:
                for line in _lines(item, picture, boxes=boxes, in_parts=item.label in whole):
                    lines.append(f"{number[item.label]} {line}\n")
                    origins.add(f"labels/{name}", len(lines), item, picture.task_id)
            path = folder / "labels" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
            if options.picture is not None:
                target = folder / "images" / picture_name(name, ".txt", picture.file_name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(options.picture(picture))
        (folder / "data.yaml").write_text(_yaml(content, with_pictures=options.picture is not None), "utf-8")


def _lines(item: Item, picture: Shown, *, boxes: bool, in_parts: bool) -> Iterator[str]:
    if item.rle is None:
        return
    height, width = picture.hw
    if boxes:
        x0, y0, x1, y1 = box_of(item)
        shares = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        yield " ".join(f"{share:.{_DIGITS}f}" for share in shares)
        return
    for part in components(item.rle, min_area_px=1) if in_parts else [item.rle]:
        ring = np.clip(mask_ring(part) / (width, height), 0, 1)
        yield " ".join(f"{share:.{_DIGITS}f}" for share in ring.reshape(-1).tolist())


def _yaml(content: Content, *, with_pictures: bool) -> str:
    lines = ["path: .", "train: images", "val: images", "names:"]
    if not with_pictures:
        lines.insert(0, "# put the pictures into images/, under the names of the files in labels/")
    lines += [f"  {number}: {json.dumps(label)}" for number, label in enumerate(content.labels)]
    return "\n".join(lines) + "\n"
