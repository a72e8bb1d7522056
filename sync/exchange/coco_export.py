"""COCO: masks and boxes with provenance, for every tool that reads COCO.

Per annotation, besides the COCO fields::

    "source": "human" | "verified" | "propagated"
    human:       "person" (Label Studio user), "annotation" (its id)
    verified:    "round", "instance"; workers looked at exactly this mask
    propagated:  "round", "instance", "cluster", "decision", "test", and the interval of the cluster's purity:
                 "purity_lower", "purity_upper", "confidence"

A mask is written as compressed run lengths. A box has ``bbox`` and no segmentation. A box that was drawn
rotated has its corners as segmentation, ``bbox`` around them, and ``rotation``: degrees clockwise about its
top left corner, the first of the four. Where there is one mask per label, a picture has one annotation per
label.

``info`` names the round and the model version that the accepted masks come from, and every picture that was
left out with the reason. ``info.decisions`` lists every decision of that round, ``info.audits`` the final
audits among them. ``info.promise`` is what holds for the accepted masks that nobody looked at, ``info.found``
the share of objects found on pictures that nobody drew on, over all labels and for each; ``info.says`` says
both in words. They are null where nothing can be promised.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from pycocotools import mask as coco

from ml_backend.artifacts.files import open_atomic
from sync.exchange.content import Content, Item, Shown

__all__ = ["write_coco"]


def write_coco(content: Content, out: Path) -> None:
    """Write one JSON file, picture by picture. Raises StorageError when it cannot be written."""
    category = {label: number for number, label in enumerate(content.labels, start=1)}
    boxes = {label for target in content.wanted if target.is_of.unit == "box" for label in target.labels}
    with open_atomic(out) as file, TemporaryFile() as images:
        file.write(b'{"annotations": [')
        count = 0
        for number, picture in enumerate(content.pictures):
            images.write(_line(_image(picture), first=number == 0))
            for item in picture.items:
                if item.rle is None:
                    continue
                count += 1
                row = {"id": count, "image_id": picture.task_id, "category_id": category[item.label]}
                shape = _box(item) if item.label in boxes else _mask(item.rle)
                file.write(_line({**row, **shape, "iscrowd": 0, **item.origin}, first=count == 1))
        file.write(b'\n],\n"images": [')
        images.seek(0)
        shutil.copyfileobj(images, file)
        left_out = [
            {"task": row.task_id, "file_name": row.file_name, "reason": row.reason}
            for row in content.left_out
        ]
        rest = {
            "categories": [{"id": number, "name": label} for label, number in category.items()],
            "info": {**content.info, "left_out": left_out},
        }
        file.write(b"\n],\n" + json.dumps(rest, indent=1).encode()[1:] + b"\n")


def _image(picture: Shown) -> dict[str, Any]:
    return {
        "id": picture.task_id,
        "file_name": picture.file_name,
        "height": picture.hw[0],
        "width": picture.hw[1],
        "source": picture.address,
    }


def _line(row: Mapping[str, Any], *, first: bool) -> bytes:
    return (b"\n" if first else b",\n") + json.dumps(row, sort_keys=True).encode()


def _mask(rle: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"]},
        "bbox": [round(float(x), 2) for x in np.asarray(coco.toBbox(rle)).tolist()],
        "area": int(coco.area(rle)),
    }


def _box(item: Item) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(edge) for edge in item.box_xyxy)
    if not item.rotated:
        width, height = round(x1 - x0, 2), round(y1 - y0, 2)
        return {"segmentation": [], "bbox": [x0, y0, width, height], "area": round(width * height, 2)}
    corners = _corners(item.rotated)
    xs, ys = corners[0::2], corners[1::2]
    left, top = min(xs), min(ys)
    return {
        "segmentation": [corners],
        "bbox": [left, top, round(max(xs) - left, 2), round(max(ys) - top, 2)],
        "area": round(float(item.rotated[2]) * float(item.rotated[3]), 2),
        "rotation": float(item.rotated[4]),
    }


def _corners(rotated: Sequence[float]) -> list[float]:
    """x, y, x, y, … of a rotated box, clockwise from its top left corner."""
    x, y, width, height, degrees = (float(v) for v in rotated)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found: list[float] = []
    for right, down in ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height)):
        found += [round(x + right * cos - down * sin, 2), round(y + right * sin + down * cos, 2)]
    return found
