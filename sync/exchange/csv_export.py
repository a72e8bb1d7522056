"""CSV of classes: one line per picture and label, with the origin of the label.

A picture that a person finished without giving it a label has one line without a label: it was looked at.
``probability`` is the model's, of an accepted label; ``purity_lower`` and ``purity_upper`` bound the share of
right labels in the set that it was accepted with, at level ``confidence``.
"""

from __future__ import annotations

import codecs
import csv
from pathlib import Path
from typing import Any, Final

from ml_backend.artifacts.files import open_atomic
from sync.exchange.content import Content, Shown
from sync.exchange.readers.spool import Spool

__all__ = ["COLUMNS", "write_csv"]

COLUMNS: Final = (
    "file",
    "label",
    "source",
    "probability",
    "purity_lower",
    "purity_upper",
    "confidence",
    "round",
    "model_version",
    "person",
    "annotation",
    "task",
)
_NAMES: Final = {"probability": "score"}


def write_csv(content: Content, out: Path) -> None:
    """Write one file (UTF-8, a head line), in the order of the file names. Raises StorageError when it cannot
    be written.
    """
    with open_atomic(out) as file, Spool() as spool:
        writer = csv.DictWriter(codecs.getwriter("utf-8")(file), COLUMNS, lineterminator="\n")
        writer.writeheader()
        spool.fill("lines", ((shown.file_name, row) for shown in content.pictures for row in _rows(shown)))
        writer.writerows(spool.in_order("lines"))


def _rows(picture: Shown) -> list[dict[str, Any]]:
    """The lines of a picture; what is not known is empty."""
    place = {"file": picture.file_name, "task": picture.task_id}
    labels = [item for item in picture.items if item.rle is None]
    if picture.finished and not labels:
        return [{**dict.fromkeys(COLUMNS, ""), **place, "source": "human"}]
    return [
        {name: item.origin.get(_NAMES.get(name, name), "") for name in COLUMNS}
        | {**place, "label": item.label}
        for item in labels
    ]
