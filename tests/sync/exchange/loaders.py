"""Readers of other tools' formats, written to their published rules and to nothing of ours.

The YOLO one follows what ultralytics documents: labels stand under ``labels`` where pictures stand under
``images``; five numbers are a box, more are a polygon; every coordinate lies in 0..1; the names of classes
count from 0 in ``data.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import yaml
from PIL import Image, ImageDraw

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Seen:
    """One object: its label, its box in pixels (x0, y0, x1, y1), its mask where there is one."""

    label: str
    box: tuple[float, float, float, float]
    mask: Array | None = None


def load_yolo(root: Path, picture: str) -> list[Seen]:
    about = yaml.safe_load((root / "data.yaml").read_text())
    names = about["names"]
    assert sorted(names) == list(range(len(names)))
    image = root / about["path"] / about["train"] / picture
    with Image.open(image) as opened:
        width, height = opened.size
    labels = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
    found = []
    for line in labels.read_text().splitlines():
        number, *values = line.split()
        numbers = np.array([float(value) for value in values])
        assert ((numbers >= 0) & (numbers <= 1)).all()
        if len(numbers) == 4:
            x, y, w, h = numbers * (width, height, width, height)
            found.append(Seen(names[int(number)], (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
            continue
        assert len(numbers) >= 6
        assert len(numbers) % 2 == 0
        points = numbers.reshape(-1, 2) * (width, height)
        low, high = points.min(axis=0), points.max(axis=0)
        # filled at eight times the size and read at the centres of the pixels
        canvas = Image.new("1", (width * 8, height * 8))
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in (points * 8).tolist()], fill=1)
        mask = np.asarray(canvas)[4::8, 4::8]
        found.append(Seen(names[int(number)], (*low, *high), mask))
    return found


def load_voc(root: Path, stem: str) -> list[Seen]:
    tree = ET.parse(root / "Annotations" / f"{stem}.xml").getroot()
    png = root / "SegmentationObject" / f"{stem}.png"
    values = np.asarray(Image.open(png)) if png.exists() else None
    found = []
    for number, item in enumerate(tree.findall("object"), start=1):
        x0, y0, x1, y1 = (
            int(item.findtext(f"bndbox/{edge}") or "") for edge in ("xmin", "ymin", "xmax", "ymax")
        )
        mask = None if values is None else values == number
        found.append(Seen(item.findtext("name") or "", (x0 - 1, y0 - 1, x1, y1), mask))
    return found


def iou(a: Array, b: Array) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
