"""Which part of a pool holds which task. It is read once; after that only new parts are opened.

At first it comes from one file that covers most parts (see ``pool_index_file``), if the pool has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.pool_index_file import IndexFile, read_index_file
from ml_backend.artifacts.pool_parts import TASKS, part_names, read_columns
from ml_backend.artifacts.pool_tables import TaskEntry
from ml_backend.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PoolIndex", "newest_texts", "read_index"]

_COLUMNS: Final = ("task_id", "height", "width", "score", "n_instances", "error")
_BYTES_PER_ERROR: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class PoolIndex:
    """The tasks of a pool, and the part that holds each of them.

    Attributes
    ----------
    parts : file names of the committed parts, oldest first
    task_id : (n,) int64, ascending
    part : (n,) int32, index into ``parts`` of the newest part that holds the task
    hw : (n, 2) int32
    score : (n,) float32
    n_instances : (n,) int64
    error : why the image of a task could not be read, by task id; only of those that have an error
    """

    parts: tuple[str, ...]
    task_id: npt.NDArray[np.int64]
    part: npt.NDArray[np.int32]
    hw: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    n_instances: npt.NDArray[np.int64]
    error: Mapping[int, str]

    @classmethod
    def empty(cls) -> PoolIndex:
        """The index of a pool without parts."""
        return cls(
            (),
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros((0, 2), np.int32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            MappingProxyType({}),
        )

    def __len__(self) -> int:
        return len(self.task_id)

    @property
    def nbytes(self) -> int:
        """Approximate bytes of memory."""
        columns = (self.task_id, self.part, self.hw, self.score, self.n_instances)
        names = 100 * len(self.parts)
        return sum(int(c.nbytes) for c in columns) + names + _BYTES_PER_ERROR * len(self.error)

    def entry(self, task_id: int) -> TaskEntry | None:
        """What the pool holds of a task, None when the model has not looked at it."""
        row = int(np.searchsorted(self.task_id, task_id))
        if row == len(self) or self.task_id[row] != task_id:
            return None
        return TaskEntry(
            part=self.parts[self.part[row]],
            hw=(int(self.hw[row, 0]), int(self.hw[row, 1])),
            score=float(self.score[row]),
            n_instances=int(self.n_instances[row]),
            error=self.error.get(task_id, ""),
        )

    def rows_of(self, task_ids: Iterable[int] | None) -> npt.NDArray[np.intp]:
        """Rows of the given tasks that the pool holds (of all tasks when None), ascending."""
        if task_ids is None:
            return np.arange(len(self))
        wanted = np.fromiter((int(t) for t in task_ids), np.int64)
        return np.flatnonzero(np.isin(self.task_id, wanted))


def read_index(folder: Path, known: PoolIndex | None = None) -> PoolIndex:
    """The index of a pool; an absent pool has an empty one.

    ``known`` is the index read before. It is returned unchanged when there are no new parts; otherwise only
    the new parts are opened. When some of its parts are gone, the pool was made again, and is read anew.
    Raises StorageError when the pool that ``known`` was read from is gone, or a part is damaged.
    """
    parts = part_names(folder)
    if known is None or not set(known.parts) <= set(parts):
        if known is not None and not parts:
            raise _deleted(folder)
        file = read_index_file(folder, _COLUMNS)
        known = PoolIndex.empty() if file is None else _of_file(file)
        parts = part_names(folder)  # again: the file may cover a part that was written meanwhile
        if not set(known.parts) <= set(parts):
            raise _deleted(folder)
    fresh = sorted(set(parts) - set(known.parts))
    if not fresh:
        return known
    return _extended(known, parts, fresh, [read_columns(folder / TASKS / part, _COLUMNS) for part in fresh])


def _deleted(folder: Path) -> StorageError:
    return StorageError(f"the pool {folder} was deleted", hint="The worker makes it again in its next round")


def newest_texts(folder: Path, index: PoolIndex, name: str) -> npt.NDArray[np.object_]:
    """A column of texts of the task parts, ``image_sha`` or ``doubts``, for each row of the pool's ``index``.

    Pools of earlier programs lack ``doubts``: empty texts. Raises StorageError when a part is damaged.
    """
    out = np.full(len(index), "", object)
    file = read_index_file(folder, ("task_id", name))
    covered = set() if file is None else set(file.parts) & set(index.parts)
    if file is not None and len(covered) == len(file.parts):
        is_covered = np.array([part in covered for part in index.parts], bool)[index.part]
        _put(out, index, file.rows, name, is_covered)
    else:
        covered = set()
    for number in np.unique(index.part).tolist():
        if index.parts[number] not in covered:
            table = read_columns(folder / TASKS / index.parts[number], ("task_id", name))
            if name in table.column_names:
                _put(out, index, table, name, index.part == number)
    return out


def _put(
    out: npt.NDArray[np.object_],
    index: PoolIndex,
    table: pa.Table,
    name: str,
    is_meant: npt.NDArray[np.bool_],
) -> None:
    """Texts of a table at the places of their tasks, where ``is_meant``; (n,) bool."""
    rows = np.searchsorted(index.task_id, table["task_id"].to_numpy())
    texts = np.empty(len(table), object)
    texts[:] = table[name].to_pylist()
    out[rows[is_meant[rows]]] = texts[is_meant[rows]]


def _of_file(file: IndexFile) -> PoolIndex:
    rows = file.rows
    column = {name: rows[name].to_numpy() for name in ("task_id", "part", "score", "n_instances")}
    texts = enumerate(rows["error"].to_pylist())
    return PoolIndex(
        file.parts,
        column["task_id"].astype(np.int64),
        column["part"].astype(np.int32),
        np.stack([rows[name].to_numpy() for name in ("height", "width")], axis=1).astype(np.int32),
        column["score"].astype(np.float32),
        column["n_instances"].astype(np.int64),
        MappingProxyType({int(column["task_id"][row]): str(text) for row, text in texts if text}),
    )


def _extended(
    known: PoolIndex, parts: Sequence[str], fresh: Sequence[str], tables: Sequence[pa.Table]
) -> PoolIndex:
    place = {name: i for i, name in enumerate(parts)}
    moved = np.array([place[name] for name in known.parts], np.int32)
    lengths = [len(table) for table in tables]

    def joined(old: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.generic]:
        return np.concatenate([old, *(t[name].to_numpy().astype(old.dtype, copy=False) for t in tables)])

    task_id = joined(known.task_id, "task_id")
    part = np.concatenate(
        [moved[known.part], np.repeat(np.array([place[n] for n in fresh], np.int32), lengths)]
    )
    order = np.lexsort((part, task_id))
    newest = order[np.append(task_id[order][1:] != task_id[order][:-1], True)]
    texts = [text for table in tables for text in table["error"].to_pylist()]
    error = dict(known.error)
    for row in newest[newest >= len(known)]:
        if text := texts[row - len(known)]:
            error[int(task_id[row])] = str(text)
        else:
            error.pop(int(task_id[row]), None)
    hw = np.stack([joined(known.hw[:, 0], "height")[newest], joined(known.hw[:, 1], "width")[newest]], axis=1)
    return PoolIndex(
        tuple(parts),
        task_id[newest].astype(np.int64),
        part[newest].astype(np.int32),
        hw.astype(np.int32),
        joined(known.score, "score")[newest].astype(np.float32),
        joined(known.n_instances, "n_instances")[newest].astype(np.int64),
        MappingProxyType(error),
    )
