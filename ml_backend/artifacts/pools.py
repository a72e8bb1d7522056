"""Pools on disk: instances as Parquet columns, written part by part, read by column and by task.

``pools/<version>/`` holds two Parquet datasets and an index (see ``pool_index_file``)::

    pool.parquet/part-000017-….parquet     one row per instance
    tasks.parquet/part-000017-….parquet    one row per task, also for tasks without instances and broken ones
    index.parquet                          the rows of most task parts, and which part each task is in

Parts of the same name belong together. The task part is renamed into place last, so it commits both: an
instance part without a task part does not count. After a writer was killed, it is run again for the tasks
that ``done_tasks`` does not list. When several parts hold a task (its image changed), the newest part counts.

Instances have the columns ``key``, ``task_id``, ``label``, ``x0``, ``y0``, ``x1``, ``y1``, ``counts``,
``height``, ``width``, ``score``, ``quality``, ``embedding`` (a list of d numbers, absent when d is 0) and
``edges`` (a list of 10, see ``ml_backend.masks.edges``). Pools of earlier programs have no ``edges``: they
read as zeros, and stay zeros when instances are added, so they tell policies nothing.

Tasks may have ``doubts``, JSON of what the model itself says about its doubts (see ``Instances.doubts``).

This module reads a whole pool or many tasks of it; ``pool_reader`` keeps pools open for small reads,
``pool_writer`` writes them, ``pool_tables`` holds the columns and the keys.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ml_backend.artifacts.pool_index import PoolIndex, newest_texts, read_index
from ml_backend.artifacts.pool_parts import as_objects, read_instances, to_pool_table
from ml_backend.artifacts.pool_tables import ALL_COLUMNS, PoolTable, TaskTable
from ml_backend.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["done_tasks", "read_doubts", "read_pool", "read_replaced", "read_tasks"]

_SHA: Final = ("task_id", "image_sha")


def read_tasks(folder: Path) -> TaskTable:
    """The tasks of a pool, ascending by id; empty when the pool is not there. Raises StorageError."""
    index = read_index(folder)
    ids = index.task_id.tolist()
    return TaskTable(
        index.task_id,
        newest_texts(folder, index, "image_sha"),
        index.hw,
        index.score,
        index.n_instances,
        as_objects([index.error.get(t, "") for t in ids]),
    )


def read_doubts(folder: Path, index: PoolIndex) -> dict[int, dict[str, float]]:
    """The doubts that the model itself named, by task; tasks without any are left out. Raises StorageError.

    Pools of earlier programs have none.
    """
    texts = newest_texts(folder, index, "doubts")
    return {
        task: {str(name): float(value) for name, value in json.loads(text).items()}
        for task, text in zip(index.task_id.tolist(), texts.tolist(), strict=True)
        if text
    }


def done_tasks(folder: Path) -> set[int]:
    """Ids of tasks the pool holds, broken ones included. Raises StorageError."""
    return set(read_index(folder).task_id.tolist())


def read_pool(
    folder: Path,
    *,
    columns: Sequence[str] = ALL_COLUMNS,
    task_ids: Iterable[int] | None = None,
    index: PoolIndex | None = None,
) -> PoolTable:
    """Instances of a pool (of ``task_ids`` only, if given); an absent pool is an empty one.

    ``columns`` are names out of ``ALL_COLUMNS``: reading without ``embedding`` is many times faster. With an
    ``index`` (see ``read_index``) only the parts that hold the tasks are opened; without one it is read
    first. Raises StorageError when a part is missing or damaged.
    """
    if unknown := set(columns) - set(ALL_COLUMNS):
        raise ValueError(f"unknown columns {sorted(unknown)}, known: {', '.join(ALL_COLUMNS)}")
    index = read_index(folder) if index is None else index
    wanted = index.rows_of(task_ids)
    wanted = wanted[index.n_instances[wanted] > 0]
    tables = []
    for number in np.unique(index.part[wanted]).tolist():
        table = read_instances(folder, index.parts[number], columns)
        ids = table["task_id"].to_numpy()
        mine = np.isin(ids, index.task_id[wanted[index.part[wanted] == number]])
        tables.append(table if mine.all() else table.filter(mine))
    return to_pool_table(tables)


def read_replaced(folder: Path, keys: Collection[str], *, columns: Sequence[str] = ALL_COLUMNS) -> PoolTable:
    """Instances with these keys, also of parts that a newer part replaces. Raises StorageError.

    A tree that was built before the image of a task changed still has the old instances as leaves.
    """
    index = read_index(folder)
    found: dict[str, tuple[pa.Table, int]] = {}
    for part in index.parts:
        try:
            table = read_instances(folder, part, columns)
        except StorageError:
            continue  # a part without instances has no file
        for row, key in enumerate(table["key"].to_pylist()):
            if key in keys:
                found[key] = (table, row)
    return to_pool_table([table.slice(row, 1) for table, row in found.values()])
