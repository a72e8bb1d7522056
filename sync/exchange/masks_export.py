"""PNG masks: one file of numbers per picture, and ``legend.json`` that says what they mean.

Where there is one mask per label, numbers stand for labels (``"numbers": "labels"``): 0 is background, 1 and
up are the labels in their order, 255 is unknown: on a picture that nobody finished, all that no accepted
mask covers, unless a mask of every label was accepted there. The colours are those of the PASCAL VOC masks.

Where there is one mask per object, numbers stand for objects (``"numbers": "objects"``): 1 and up on each
picture, in 16 bits, and the legend says of which label each is.

Where masks overlap, the smaller one is on top.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ml_backend.artifacts.files import open_atomic, publish_dir
from ml_backend.errors import BadInput
from ml_backend.masks.rle import decode_rle, rle_area
from sync.exchange.content import Content, Item, Shown
from sync.exchange.file_names import OtherEndings
from sync.exchange.readers.masks_reader import LEGEND, UNKNOWN

__all__ = ["index_png", "write_masks"]

_MOST_OBJECTS: Final = 65535


def write_masks(content: Content, out: Path) -> None:
    """Write the new folder ``out``: a PNG per picture under its name, and the legend.

    Raises BadInput when there is something at ``out`` already, and for more than 254 labels; StorageError
    when it cannot be written.
    """
    if out.exists():
        raise BadInput(f"{out} is there already", field="out", hint="Name a folder that does not exist yet")
    of_labels = all(target.is_of.whole_labels for target in content.wanted)
    if of_labels and len(content.labels) >= UNKNOWN:
        raise BadInput(f"{len(content.labels)} labels do not fit into 8 bits", field="format")
    number = {label: place for place, label in enumerate(content.labels, start=1)}
    one_each = all(target.is_of.same_iou > 1 for target in content.wanted)
    names = OtherEndings(content.names, ".png")
    with publish_dir(out) as folder, TemporaryFile() as rows:
        for count, picture in enumerate(content.pictures):
            items = [item for item in picture.items if item.rle is not None]
            if of_labels:
                values = [number[item.label] for item in items]
                background = _background(picture, items, number, one_each=one_each)
            else:
                values, background = list(range(1, len(items) + 1)), 0
            target = folder / names[picture.task_id]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(index_png(picture.hw, items, values, background))
            row = {
                "file_name": picture.file_name,
                "mask": names[picture.task_id],
                "task": picture.task_id,
                "finished": picture.finished,
                "labels": [
                    {"value": value, "label": item.label, **item.origin}
                    for value, item in zip(values, items, strict=True)
                ],
            }
            rows.write((b",\n" if count else b"\n") + json.dumps(row, sort_keys=True).encode())
        rows.seek(0)
        with open_atomic(folder / LEGEND) as file:
            head = json.dumps(_legend(content, number, of_labels=of_labels), indent=1)
            file.write(head.encode()[:-2] + b',\n "pictures": [')
            shutil.copyfileobj(rows, file)
            file.write(b"\n ]\n}\n")


def index_png(
    hw: tuple[int, int], items: Sequence[Item], values: Sequence[int], background: int = 0
) -> bytes:
    """A PNG with a number per pixel: palette colours up to 255, else 16 bit grey. Small masks are on top."""
    found = np.full(hw, background, np.uint16)
    masks = [(item.rle, value) for item, value in zip(items, values, strict=True) if item.rle is not None]
    if len(masks) > _MOST_OBJECTS:
        raise BadInput(f"{len(masks)} objects of one picture do not fit into 16 bits", field="format")
    for rle, value in sorted(masks, key=lambda mask: -rle_area(mask[0])):
        found[decode_rle(rle)] = value
    data = io.BytesIO()
    if int(found.max(initial=0)) > UNKNOWN:
        Image.fromarray(found).save(data, "PNG")
    else:
        image = Image.fromarray(found.astype(np.uint8), "P")
        image.putpalette(_PALETTE.reshape(-1).tolist())
        image.save(data, "PNG")
    return data.getvalue()


def _background(picture: Shown, items: Sequence[Item], number: dict[str, int], *, one_each: bool) -> int:
    """``one_each``: a mask is all of its label, not one part of it."""
    is_known = picture.finished or (one_each and {item.label for item in items} == set(number))
    return 0 if is_known else UNKNOWN


def _legend(content: Content, number: dict[str, int], *, of_labels: bool) -> dict[str, Any]:
    def colour(value: int) -> str:
        return "#" + "".join(f"{channel:02x}" for channel in _PALETTE[value % 256].tolist())

    labels = [{"value": value, "label": label, "colour": colour(value)} for label, value in number.items()]
    left_out = [
        {"task": row.task_id, "file_name": row.file_name, "reason": row.reason} for row in content.left_out
    ]
    return {
        "numbers": "labels" if of_labels else "objects",
        "background": 0,
        "unknown": UNKNOWN if of_labels else None,
        "labels": labels,
        "info": {**content.info, "left_out": left_out},
    }


def _palette() -> npt.NDArray[np.uint8]:
    """(256, 3) colours of PASCAL VOC: the bits of a number, spread over the channels."""
    value = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for shift in range(8):
        for channel in range(3):
            colours[:, channel] |= ((value >> (3 * shift + channel)) & 1) << (7 - shift)
    return colours.astype(np.uint8)


_PALETTE: Final = _palette()
