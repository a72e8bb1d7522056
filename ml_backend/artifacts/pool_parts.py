"""The Parquet files of a pool: their names, and how their columns become arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.pool_tables import FIELDS, PoolTable
from ml_backend.errors import StorageError
from ml_backend.masks.edges import EDGES

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "INSTANCES",
    "TASKS",
    "as_objects",
    "has_edges",
    "part_names",
    "read_columns",
    "read_instances",
    "to_pool_table",
]

INSTANCES: Final = "pool.parquet"
TASKS: Final = "tasks.parquet"


def part_names(folder: Path) -> list[str]:
    """File names of the committed parts of a pool, oldest first; empty when the pool is not there."""
    try:
        names = os.listdir(folder / TASKS)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.startswith("part-") and name.endswith(".parquet"))


def has_edges(folder: Path) -> bool:
    """False when a pool holds instances that were written without the column ``edges``.

    Such a pool gets no edges for later instances either: zeros for some masks and numbers for others would
    tell when a mask was found, not how good it is. Raises StorageError when the oldest part is damaged.
    """
    for part in part_names(folder):
        if (folder / INSTANCES / part).exists():  # a part without instances has no such file
            return "edges" in read_columns(folder / INSTANCES / part, ("edges",)).column_names
    return True


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """The columns of one file, in the order of the file; names that it does not have are ignored.

    Raises StorageError when the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read([name for name in file.schema_arrow.names if name in names])
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} cannot be read ({error})",
            hint=f"Delete {path.parent.parent}: the worker makes it again",
        ) from error


def read_instances(folder: Path, part: str, columns: Sequence[str]) -> pa.Table:
    """Instances of a part, which must have at least one; ``columns`` are names from ``ALL_COLUMNS``.

    Raises StorageError when the file is missing or damaged.
    """
    return read_columns(
        folder / INSTANCES / part, ["task_id", *(f for c in columns for f in FIELDS.get(c, (c,)))]
    )


def to_pool_table(tables: Sequence[pa.Table]) -> PoolTable:
    """Parts of a pool, one after the other, as arrays."""

    def numbers(name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
        found = [t[name].to_numpy() for t in tables if name in t.column_names]
        return np.concatenate(found).astype(kind, copy=False) if found else np.zeros(0, kind)

    def texts(name: str) -> npt.NDArray[np.object_]:
        found = [_strings(t[name]) for t in tables if name in t.column_names]
        return np.concatenate(found) if found else np.zeros(0, object)

    box = [numbers(name, np.float32) for name in FIELDS["box"]]
    hw = [numbers(name, np.int32) for name in ("height", "width")]
    return PoolTable(
        key=texts("key"),
        task_id=numbers("task_id", np.int64),
        label=texts("label"),
        box_xyxy=np.stack(box, axis=1),
        counts=texts("counts"),
        hw=np.stack(hw, axis=1),
        score=numbers("score", np.float32),
        quality=numbers("quality", np.float32),
        embedding=_embeddings(tables),
        edges=_edges(tables),
    )


def as_objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    """(n,) array of Python objects."""
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Text column as str objects; repeated values of a dictionary column share one object."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return np.asarray(column.to_numpy(), object)
    parts = [
        as_objects(chunk.dictionary.to_pylist())[chunk.indices.to_numpy()]
        if len(chunk)
        else np.zeros(0, object)
        for chunk in column.chunks
    ]
    return np.concatenate(parts) if parts else np.zeros(0, object)


def _embeddings(tables: Sequence[pa.Table]) -> npt.NDArray[np.float32]:
    found = [_lists(table, "embedding") for table in tables if "embedding" in table.column_names]
    rows = sum(len(t) for t in tables)
    return np.concatenate(found) if found else np.zeros((rows, 0), np.float32)


def _edges(tables: Sequence[pa.Table]) -> npt.NDArray[np.float32]:
    """Zeros where they were not asked for, and for parts that were written without."""
    found = [
        _lists(table, "edges")
        if "edges" in table.column_names
        else np.zeros((len(table), len(EDGES)), np.float32)
        for table in tables
    ]
    return np.concatenate(found) if found else np.zeros((0, len(EDGES)), np.float32)


def _lists(table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    """(rows, width) of a column of lists that all have the same width."""
    array = table[name].combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(-1, array.type.list_size), np.float32)
