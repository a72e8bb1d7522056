"""CSV of classes: one line per picture and label, with the origin of the label.

A picture that a person finished without giving it a label has one line without a label: it was looked at.
``probability`` is the model's, of an accepted label; ``purity_lower`` and ``purity_upper`` bound the share of
right labels in the set that it was accepted with, at level ``confidence``.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Final

from ml_backend.artifacts.files import write_atomic
from sync.exchange.content import Content

__all__ = ["COLUMNS", "csv_rows", "write_csv"]

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
    """Write one file (UTF-8, a head line). Raises StorageError when it cannot be written."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(content))
    write_atomic(out, text.getvalue().encode())


def csv_rows(content: Content) -> list[dict[str, Any]]:
    """The lines in the order of the file names; what is not known is empty."""
    rows = []
    for picture in sorted(content.pictures, key=lambda shown: (shown.file_name, shown.task_id)):
        place = {"file": picture.file_name, "task": picture.task_id}
        labels = [item for item in picture.items if item.rle is None]
        for item in labels:
            origin = {name: item.origin.get(_NAMES.get(name, name), "") for name in COLUMNS}
            rows.append({**origin, **place, "label": item.label})
        if picture.finished and not labels:
            rows.append({**dict.fromkeys(COLUMNS, ""), **place, "source": "human"})
    return rows
