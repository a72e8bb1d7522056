"""Parquet files that Hugging Face ``datasets`` loads: ``data/train-00000-of-00001.parquet``.

A row is a picture. ``image`` has the layout of their image feature (``bytes`` and ``path``); the bytes are
there when pictures are asked for. ``objects`` holds lists of the same length: label, box (x, y, width,
height), mask (size and counts of COCO run lengths), and where each comes from. ``classes`` holds the labels
of the whole picture. The features stand in the metadata of the file, so that labels come with their names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pycocotools import mask as coco

from ml_backend.artifacts.files import publish_dir
from sync.exchange.content import Content, Item, Shown
from sync.exchange.writing import ExportOptions, box_of, must_be_new, wanted_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["write_parquet"]

_PICTURES_AT_ONCE: Final = 1000
"""in a row group. The file keeps a description of every group, in memory until its end"""
_BYTES_AT_ONCE: Final = 64 * 1024**2
_OBJECT_BYTES: Final = 2000
"""of an object in memory, without its mask"""
_ORIGIN: Final[Mapping[str, str]] = {
    "source": "string",
    "score": "float32",
    "round": "int32",
    "model_version": "string",
    "purity_lower": "float32",
    "purity_upper": "float32",
    "confidence": "float32",
    "person": "int64",
}


def write_parquet(content: Content, out: Path, options: ExportOptions) -> None:
    """Write the new folder ``out``, row group by row group. Raises BadInput if it is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    must_be_new(out)
    labels = content.labels
    number = {label: place for place, label in enumerate(labels)}
    boxes = {label for label, unit in wanted_of(content).items() if unit == "box"}
    schema = _schema(labels)
    with publish_dir(out) as folder:
        (folder / "data").mkdir()
        with pq.ParquetWriter(
            folder / "data" / "train-00000-of-00001.parquet", schema, compression="zstd"
        ) as to:
            rows: list[dict[str, Any]] = []
            size = 0
            for picture in content.pictures:
                data = None if options.picture is None else options.picture(picture)
                rows.append(_row(picture, data, number, boxes))
                size += len(data or b"") + sum(map(_bytes_of, picture.items))
                if len(rows) >= _PICTURES_AT_ONCE or size > _BYTES_AT_ONCE:
                    to.write_table(pa.Table.from_pylist(rows, schema=schema))
                    rows, size = [], 0
            if rows:
                to.write_table(pa.Table.from_pylist(rows, schema=schema))
        left_out = [
            {"task": r.task_id, "file_name": r.file_name, "reason": r.reason} for r in content.left_out
        ]
        info = json.dumps({**content.info, "left_out": left_out}, indent=1)
        (folder / "groundswell.json").write_text(info, "utf-8")
        (folder / "README.md").write_text(_card(labels), "utf-8")


def _row(picture: Shown, data: bytes | None, number: Mapping[str, int], boxes: set[str]) -> dict[str, Any]:
    objects: dict[str, list[Any]] = {
        name: [] for name in ("label", "bbox", "area", "mask_size", "mask_counts", *_ORIGIN)
    }
    for item in picture.items:
        if item.rle is None:
            continue
        x0, y0, x1, y1 = box_of(item) if item.label in boxes else _around(item)
        objects["label"].append(number[item.label])
        objects["bbox"].append([x0, y0, x1 - x0, y1 - y0])
        objects["area"].append((x1 - x0) * (y1 - y0) if item.label in boxes else float(coco.area(item.rle)))
        objects["mask_size"].append([] if item.label in boxes else item.rle["size"])
        objects["mask_counts"].append(None if item.label in boxes else item.rle["counts"])
        for name in _ORIGIN:
            objects[name].append(item.origin.get(name))
    tags = [item for item in picture.items if item.rle is None]
    return {
        "image": {"bytes": data, "path": picture.file_name},
        "file_name": picture.file_name,
        "task": picture.task_id,
        "height": picture.hw[0],
        "width": picture.hw[1],
        "finished": picture.finished,
        "classes": [number[item.label] for item in tags],
        "class_source": [item.origin["source"] for item in tags],
        "objects": objects,
    }


def _bytes_of(item: Item) -> int:
    return _OBJECT_BYTES + (0 if item.rle is None else len(str(item.rle["counts"])))


def _around(item: Item) -> tuple[float, float, float, float]:
    x, y, width, height = np.asarray(coco.toBbox(item.rle), np.float64).tolist()
    return x, y, x + width, y + height


def _schema(labels: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    of_object = {"label": pa.int64(), "bbox": pa.list_(pa.float32()), "area": pa.float32()}
    of_object |= {"mask_size": pa.list_(pa.int64()), "mask_counts": pa.string()}
    of_object |= {name: pa.type_for_alias(kind) for name, kind in _ORIGIN.items()}
    fields = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("file_name", pa.string()),
        ("task", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("finished", pa.bool_()),
        ("classes", pa.list_(pa.int64())),
        ("class_source", pa.list_(pa.string())),
        ("objects", pa.struct([(name, pa.list_(kind)) for name, kind in of_object.items()])),
    ]
    about = {"info": {"features": _features(labels)}}
    return pa.schema(fields, metadata={"huggingface": json.dumps(about)})


def _features(labels: Sequence[str]) -> dict[str, Any]:
    """The columns in the words of ``datasets``; ``Sequence`` is the name that all its versions read."""

    def value(kind: str) -> dict[str, Any]:
        return {"dtype": kind, "_type": "Value"}

    def several(feature: dict[str, Any]) -> dict[str, Any]:
        return {"feature": feature, "_type": "Sequence"}

    label = {"names": list(labels), "_type": "ClassLabel"}
    of_object = {
        "label": label,
        "bbox": several(value("float32")),
        "area": value("float32"),
        "mask_size": several(value("int64")),
        "mask_counts": value("string"),
    } | {name: value(kind) for name, kind in _ORIGIN.items()}
    return {
        "image": {"_type": "Image"},
        "file_name": value("string"),
        "task": value("int64"),
        "height": value("int32"),
        "width": value("int32"),
        "finished": value("bool"),
        "classes": several(label),
        "class_source": several(value("string")),
        "objects": {name: several(feature) for name, feature in of_object.items()},
    }


def _card(labels: Sequence[str]) -> str:
    names = ", ".join(labels)
    return (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/train-*.parquet\n---\n\n"
        f"Labels: {names}. `objects` holds label, box (x, y, width, height), mask (COCO run lengths) and "
        "origin of each object. `groundswell.json` says what holds for all of them.\n"
    )
