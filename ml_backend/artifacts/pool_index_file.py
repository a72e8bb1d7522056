"""The index of a pool in one file, so that a reader opens it and a few parts instead of all of them.

``pools/<version>/index.parquet``: one row per task, ascending by id, as the newest of the parts that it
covers says. Its metadata names these parts. It is made from the parts alone and may be deleted at any time.

No two files have to change together. The folder of task parts says which parts there are; parts that the
index does not cover are opened, and there are fewer than ``BEHIND`` of them while a writer is at work. An
index that covers a part which is gone, or that is damaged, does not count, and the next writer replaces it.
Checksums of its pages and types of its columns tell damage. Pools of earlier programs and small ones have no
such file.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from ml_backend.artifacts.pool_parts import TASKS, part_names, read_columns

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BEHIND", "IndexFile", "parts_behind", "read_index_file", "write_index_file"]

_log = logging.getLogger(__name__)

INDEX: Final = "index.parquet"
BEHIND: Final = 32
"""So many parts may be missing in the index before it is written again."""
_FORM: Final = b"1"
_TYPES: Final = {
    "task_id": "int64",
    "image_sha": "string",
    "height": "int32",
    "width": "int32",
    "score": "float",
    "n_instances": "int64",
    "error": "string",
    "doubts": "string",
    "part": "int32",
}
_COLUMNS: Final = tuple(name for name in _TYPES if name != "part")


@dataclass(frozen=True, slots=True, eq=False)
class IndexFile:
    """Columns of the file: those asked for, and ``part``, int32, an index into ``parts``."""

    parts: tuple[str, ...]
    rows: pa.Table


def read_index_file(folder: Path, columns: Sequence[str]) -> IndexFile | None:
    """The index of a pool with these columns of its task parts; None when it has none that counts.

    List the parts after this call, not before: a part that is covered is there from then on.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / INDEX
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            about = file.schema_arrow.metadata or {}
            if about.get(b"form") != _FORM:  # of another release
                return None
            parts = tuple(str(name) for name in json.loads(about[b"parts"]))
            found = {field.name: str(field.type) for field in file.schema_arrow}
            if found != _TYPES:  # no checksum covers the schema
                raise ValueError(f"its columns are {found}")
            rows = file.read([*columns, "part"])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        _log.warning("%s is damaged, all parts are read instead: %s", path, error)
        return None
    return IndexFile(parts, rows) if set(parts) <= set(part_names(folder)) else None


def parts_behind(folder: Path) -> int:
    """How many parts the index does not cover; at least ``BEHIND`` when there is one that does not count.

    Costs the reading of the whole file: damage anywhere in it shows.
    """
    known = read_index_file(folder, _COLUMNS)
    if known is None and (folder / INDEX).exists():
        return max(BEHIND, len(part_names(folder)))
    return len(part_names(folder)) - (0 if known is None else len(known.parts))


def write_index_file(folder: Path, *, guard: Guard = unguarded) -> None:
    """Let the index cover all parts there are now.

    Raises StorageError when one of the parts is damaged or nothing can be written, and what ``guard`` raises.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = read_index_file(folder, _COLUMNS)
    parts = part_names(folder)
    place = {name: np.int32(number) for number, name in enumerate(parts)}
    tables = []
    if known is not None:
        moved = np.array([place[name] for name in known.parts], np.int32)[known.rows["part"].to_numpy()]
        tables.append(known.rows.drop_columns(["part"]).append_column("part", pa.array(moved, pa.int32())))
    for name in [name for name in parts if known is None or name not in set(known.parts)]:
        table = read_columns(folder / TASKS / name, _COLUMNS)
        if "doubts" not in table.column_names:  # a part of an earlier program
            table = table.append_column("doubts", pa.array([""] * len(table), pa.string()))
        table = table.append_column("part", pa.array(np.full(len(table), place[name]), pa.int32()))
        tables.append(table.select([*_COLUMNS, "part"]))
    rows = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    task_id = rows["task_id"].to_numpy()
    order = np.lexsort((rows["part"].to_numpy(), task_id))
    newest = order[np.append(task_id[order][1:] != task_id[order][:-1], True)]
    rows = rows.take(newest).replace_schema_metadata({"form": _FORM, "parts": json.dumps(parts)})
    file = io.BytesIO()
    pq.write_table(rows, file, compression="zstd", write_page_checksum=True)
    write_atomic(folder / INDEX, file.getvalue(), guard=guard)
