"""Indexed PNGs: one picture of label numbers per picture, and ``legend.json`` that says what they mean.

0 is background, 1 and up are the labels in their order, 255 is unknown: on a picture that nobody finished,
all that no accepted mask covers, unless a mask of every label was accepted there. Where masks overlap, the
smaller one is on top. Colours are those of the PASCAL VOC masks.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ml_backend.artifacts.files import publish_dir, write_json
from ml_backend.errors import BadInput
from ml_backend.masks.rle import decode_rle, rle_area
from sync.exchange.collect import Content, Shown

__all__ = ["LEGEND", "UNKNOWN", "write_png"]

LEGEND: Final = "legend.json"
UNKNOWN: Final = 255


def write_png(content: Content, out: Path) -> None:
    """Write the new folder ``out``: a PNG per picture under its name, and the legend.

    Raises BadInput when there is something at ``out`` already, and for more than 254 labels; StorageError
    when it cannot be written.
    """
    if out.exists():
        raise BadInput(f"{out} is there already", field="out", hint="Name a folder that does not exist yet")
    if len(content.labels) >= UNKNOWN:
        raise BadInput(f"{len(content.labels)} labels do not fit into 8 bits", field="format")
    number = {label: place for place, label in enumerate(content.labels, start=1)}
    palette = _palette()
    names = _names(content)
    one_each = all(target.is_of.same_iou > 1 for target in content.wanted)
    rows = []
    with publish_dir(out) as folder:
        for picture in content.pictures:
            values = _values(picture, number, one_each=one_each)
            image = Image.fromarray(values, "P")
            image.putpalette(palette.reshape(-1).tolist())
            target = folder / names[picture.task_id]
            target.parent.mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            image.save(data, "PNG")
            target.write_bytes(data.getvalue())
            rows.append(
                {
                    "file_name": picture.file_name,
                    "mask": names[picture.task_id],
                    "task": picture.task_id,
                    "finished": picture.finished,
                    "labels": [{"label": item.label, **item.origin} for item in picture.items],
                }
            )
        write_json(folder / LEGEND, {**_legend(content, number, palette), "pictures": rows})


def _values(picture: Shown, number: dict[str, int], *, one_each: bool) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 of one picture. ``one_each``: a mask is all of its label, not one part of it."""
    masks = [(item.label, item.rle) for item in picture.items if item.rle is not None]
    is_known = picture.finished or (one_each and {label for label, _ in masks} == set(number))
    values = np.full(picture.hw, 0 if is_known else UNKNOWN, np.uint8)
    for label, rle in sorted(masks, key=lambda mask: -rle_area(mask[1])):
        values[decode_rle(rle)] = number[label]
    return values


def _names(content: Content) -> dict[int, str]:
    """Names of the PNGs by task: those of the pictures with another ending, distinct."""
    short = {
        picture.task_id: str(Path(picture.file_name).with_suffix(".png")) for picture in content.pictures
    }
    uses = Counter(short.values())
    found = {
        picture.task_id: short[picture.task_id]
        if uses[short[picture.task_id]] == 1
        else f"{picture.file_name}.png"
        for picture in content.pictures
    }
    if len(set(found.values())) < len(found):  # a.jpg, a.bmp and a.jpg.tif
        return {picture.task_id: f"{picture.file_name}.png" for picture in content.pictures}
    return found


def _legend(content: Content, number: dict[str, int], palette: npt.NDArray[np.uint8]) -> dict[str, Any]:
    def colour(value: int) -> str:
        return "#" + "".join(f"{channel:02x}" for channel in palette[value].tolist())

    labels = [{"value": value, "label": label, "colour": colour(value)} for label, value in number.items()]
    left_out = [
        {"task": row.task_id, "file_name": row.file_name, "reason": row.reason} for row in content.left_out
    ]
    return {
        "background": 0,
        "unknown": UNKNOWN,
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
