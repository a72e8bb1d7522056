"""Pools kept open for many small reads: single tasks for live answers, clicks and crops."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex, read_index
from ml_backend.artifacts.pool_parts import TASKS, part_names, read_columns, read_instances, to_pool_table
from ml_backend.artifacts.pool_tables import ALL_COLUMNS, PoolTable, TaskEntry
from ml_backend.caches import ByteCache

__all__ = ["PoolReader", "Pools"]

_INDEX_BYTES: Final = 128 * 1024**2
"""An index takes about 32 bytes a task, so this is room for four million tasks."""
_PART_BYTES: Final = 128 * 1024**2
_COLUMNS: Final = tuple(name for name in ALL_COLUMNS if name not in ("embedding", "edges"))


class Pools:
    """The pools of all projects below a data directory, safe under threads.

    The indexes and parts used last stay in memory, up to a limit in bytes for all pools together.
    """

    def __init__(
        self, data_dir: Path, *, index_bytes: int = _INDEX_BYTES, part_bytes: int = _PART_BYTES
    ) -> None:
        self._data_dir = data_dir
        self._indexes: ByteCache[Path, PoolIndex] = ByteCache(index_bytes, lambda index: index.nbytes)
        self._parts: ByteCache[Path, PoolTable] = ByteCache(part_bytes, lambda table: table.nbytes)
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes held by indexes and by parts."""
        return self._indexes.nbytes, self._parts.nbytes

    def of(self, project_id: int, version: str) -> PoolReader:
        """The pool of a version, whether or not it is there."""
        return PoolReader(ProjectPaths(self._data_dir, project_id).pool(version), self)

    def versions(self, project_id: int) -> list[str]:
        """Versions that have a pool, the newest first."""
        found = []
        try:
            for entry in os.scandir(ProjectPaths(self._data_dir, project_id).pools):
                if not entry.name.startswith("."):
                    with suppress(FileNotFoundError):  # deleted in this moment
                        found.append((entry.stat().st_mtime, entry.name))
        except FileNotFoundError:
            return []
        return [name for _, name in sorted(found, reverse=True)]

    def index(self, folder: Path) -> PoolIndex:
        """The index of a pool as it is now. Costs one directory listing when no part is new.

        Raises StorageError when the pool was deleted or a part is damaged.
        """
        known = self._indexes.get(folder)
        if known is not None and list(known.parts) == part_names(folder):
            return known
        with self._lock:  # one thread reads new parts, the others wait for it
            known = self._indexes.get(folder)
            index = read_index(folder, known)
            if index is not known:
                self._indexes.put(folder, index)
        return index

    def part(self, folder: Path, part: str) -> PoolTable:
        """All rows of a part, but no embeddings and edges. Raises StorageError when it is lost or damaged."""
        path = folder / part
        table = self._parts.get(path)
        if table is None:
            table = to_pool_table([read_instances(folder, part, _COLUMNS)])
            self._parts.put(path, table)
        return table


class PoolReader:
    """One pool, read by task. Cheap to create, because ``Pools`` holds what stays in memory.

    Parts never change, so only new ones are read. An absent pool holds no task. If a pool is deleted after
    this process has read it, reading raises StorageError until the worker has made it again. For a process
    that never read it, it is absent. In both cases its tasks count as not predicted yet, never as empty.
    """

    def __init__(self, folder: Path, pools: Pools | None = None) -> None:
        self.folder = folder
        self._pools = pools or Pools(folder)

    def entry(self, task_id: int) -> TaskEntry | None:
        """What the pool holds of a task, None when the model has not looked at it. Raises StorageError."""
        return self._pools.index(self.folder).entry(task_id)

    def image_sha(self, task_id: int) -> str:
        """Content hash of a task's image; empty when the pool does not know it. Raises StorageError."""
        entry = self.entry(task_id)
        if entry is None:
            return ""
        table = read_columns(self.folder / TASKS / entry.part, ("task_id", "image_sha"))
        row = np.flatnonzero(table["task_id"].to_numpy() == task_id)[-1]
        return str(table["image_sha"][int(row)].as_py())

    def read(self, task_ids: Iterable[int]) -> dict[int, PoolTable]:
        """Rows by task, without embeddings, for the tasks the pool holds; each part is opened once.

        Raises StorageError when the pool was deleted, or a part of it is missing or damaged.
        """
        index = self._pools.index(self.folder)
        entries = {int(t): e for t in task_ids if (e := index.entry(int(t))) is not None}
        found = {t: to_pool_table([]) for t in entries}
        filled = {t: e.part for t, e in entries.items() if e.n_instances}
        for part in sorted(set(filled.values())):
            rows = self._pools.part(self.folder, part)
            for task_id in [t for t, its_part in filled.items() if its_part == part]:
                found[task_id] = rows.take(np.flatnonzero(rows.task_id == task_id))
        return found
