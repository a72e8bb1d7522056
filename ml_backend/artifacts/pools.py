"""Pools on disk: instances as Parquet columns, written part by part, read by column and by task.

``pools/<version>/`` holds two Parquet datasets::

    pool.parquet/part-000017-….parquet     one row per instance
    tasks.parquet/part-000017-….parquet    one row per task, also for tasks without instances and broken ones

Parts of the same name belong together. The task part is renamed into place last, so it is the commit mark: an
instance part without it does not count. A killed writer is therefore simply run again for the tasks that
``done_tasks`` does not list. When a task stands in several parts (its image changed), the newest part counts.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import write_atomic
from ml_backend.errors import StorageError
from ml_backend.instances import Instances, Rle

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "PoolReader",
    "PoolTable",
    "PoolWriter",
    "TaskEntry",
    "TaskTable",
    "done_tasks",
    "instance_key",
    "instances_for_tasks",
    "read_pool",
    "read_tasks",
    "task_of_key",
    "write_pool",
]

ALL_COLUMNS: Final = ("key", "task_id", "label", "box", "rle", "score", "quality", "embedding")
"""Names for ``read_pool(columns=…)``; ``box`` is x0, y0, x1, y1 and ``rle`` counts, height, width."""
_PARTS_KEPT: Final = 8
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "box": ("x0", "y0", "x1", "y1"),
    "rle": ("counts", "height", "width"),
}


def instance_key(task_id: int, label: str, counts: str) -> str:
    """Stable name of an instance: ``t<task>-<8 hex digits of label and mask>``."""
    digest = hashlib.blake2b(f"{label}\0{counts}".encode(), digest_size=4).hexdigest()
    return f"t{task_id}-{digest}"


def task_of_key(key: str) -> int:
    """The task of an instance key; ValueError when it is none."""
    head, _, tail = key.partition("-")
    if not head.startswith("t") or not tail:
        raise ValueError(f"{key!r} is no instance key")
    return int(head[1:])


@dataclass(frozen=True, slots=True, eq=False)
class PoolTable:
    """Rows of a pool as columns; columns that were not asked for are empty.

    Attributes
    ----------
    key : (n,) str objects, unique
    task_id : (n,) int64
    label : (n,) str objects
    box_xyxy : (n, 4) float32
    counts : (n,) str objects, compressed COCO counts
    hw : (n, 2) int32, size of the image
    score, quality : (n,) float32 in 0..1
    embedding : (n, d) float32
    """

    key: npt.NDArray[np.object_]
    task_id: npt.NDArray[np.int64]
    label: npt.NDArray[np.object_]
    box_xyxy: npt.NDArray[np.float32]
    counts: npt.NDArray[np.object_]
    hw: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.task_id)

    def rle(self, row: int) -> Rle:
        """COCO RLE of one row."""
        return {"size": [int(self.hw[row, 0]), int(self.hw[row, 1])], "counts": str(self.counts[row])}

    def take(self, where: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> PoolTable:
        """Rows by index or mask."""
        n = len(self)
        columns = (getattr(self, name) for name in self.__slots__)
        return PoolTable(*(column[where] if len(column) == n else column for column in columns))

    def instances(self, labels: Sequence[str]) -> Instances:
        """As ``Instances`` numbered by ``labels``; rows with another label are left out."""
        number = {name: i for i, name in enumerate(labels)}
        rows = np.flatnonzero(np.array([x in number for x in self.label], bool))
        return Instances(
            np.array([number[x] for x in self.label[rows]], np.int64),
            self.box_xyxy[rows],
            [self.rle(int(i)) for i in rows],
            self.score[rows],
            self.quality[rows],
            self.embedding[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class TaskTable:
    """One row per task that the model looked at.

    Attributes
    ----------
    task_id : (n,) int64
    image_sha : (n,) str objects, content hash of the image; empty when it could not be read
    hw : (n, 2) int32; zero when it could not be read
    score : (n,) float32, confidence for the task order, low = least certain (see ``uncertainty``)
    n_instances : (n,) int64
    error : (n,) str objects, empty when all went well
    """

    task_id: npt.NDArray[np.int64]
    image_sha: npt.NDArray[np.object_]
    hw: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    n_instances: npt.NDArray[np.int64]
    error: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.task_id)


@dataclass(slots=True)
class _Buffer:
    tasks: list[tuple[int, str, int, int, float, int, str]] = field(default_factory=list)
    instances: list[tuple[int, tuple[int, int], Instances]] = field(default_factory=list)


class PoolWriter:
    """Adds tasks to a pool; every ``tasks_per_part`` tasks become one durable part. Use as a context manager.

    Several writers on one folder are safe: parts have names of their own.
    """

    def __init__(
        self, folder: Path, labels: Sequence[str], *, embedding_dim: int, tasks_per_part: int = 256
    ) -> None:
        self._folder = folder
        self._labels = tuple(labels)
        self._dim = embedding_dim
        self._tasks_per_part = tasks_per_part
        self._buffer = _Buffer()

    def __enter__(self) -> PoolWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.flush()  # also after an error: what was added is good

    def add(
        self,
        task_id: int,
        instances: Instances,
        *,
        hw: tuple[int, int] = (0, 0),
        image_sha: str = "",
        score: float = 0.0,
        error: str = "",
    ) -> None:
        """One task with its instances (empty and an ``error`` text when it could not be read)."""
        if len(instances) and instances.embedding.shape[1] != self._dim:
            raise ValueError(
                f"embeddings have {instances.embedding.shape[1]} columns, this pool has {self._dim}"
            )
        self._buffer.tasks.append((task_id, image_sha, hw[0], hw[1], float(score), len(instances), error))
        if len(instances):
            self._buffer.instances.append((task_id, hw, instances))
        if len(self._buffer.tasks) >= self._tasks_per_part:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last part."""
        if not self._buffer.tasks:
            return
        buffer, self._buffer = self._buffer, _Buffer()
        stem = f"part-{_next_number(self._folder):06d}-{os.urandom(4).hex()}.parquet"
        if buffer.instances:
            _write_table(
                self._folder / "pool.parquet" / stem, _instance_table(buffer, self._labels, self._dim)
            )
        _write_table(self._folder / "tasks.parquet" / stem, _task_table(buffer))


def write_pool(
    folder: Path,
    labels: Sequence[str],
    rows: Iterable[tuple[int, Instances, dict[str, Any]]],
    *,
    embedding_dim: int,
    tasks_per_part: int = 256,
) -> None:
    """Stream (task_id, instances, keyword arguments of ``PoolWriter.add``) into a pool, part by part."""
    with PoolWriter(folder, labels, embedding_dim=embedding_dim, tasks_per_part=tasks_per_part) as writer:
        for task_id, instances, facts in rows:
            writer.add(task_id, instances, **facts)


def _next_number(folder: Path) -> int:
    names = [p.name for p in (folder / "tasks.parquet").glob("part-*.parquet")]
    return 1 + max((int(name.split("-")[1]) for name in names), default=-1)


def _write_table(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    # Floats do not compress and have no repeats: storing them plainly makes reading several times faster.
    squeeze = {name: "zstd" for name in table.column_names if name != "embedding"}
    pq.write_table(table, file, compression=squeeze, use_dictionary=["label"])
    write_atomic(path, file.getvalue())


def _instance_table(buffer: _Buffer, labels: tuple[str, ...], dim: int) -> pa.Table:
    import pyarrow as pa

    found = [instances for _, _, instances in buffer.instances]
    lengths = [len(x) for x in found]
    label = np.concatenate([x.label for x in found])
    box = np.concatenate([x.box_xyxy for x in found]).astype(np.float32)
    counts = [str(rle["counts"]) for x in found for rle in x.rle]
    task_id = np.repeat(np.array([t for t, _, _ in buffer.instances], np.int64), lengths)
    hw = np.repeat(np.array([hw for _, hw, _ in buffer.instances], np.int32), lengths, axis=0)
    names = [labels[i] for i in label]
    keys = [instance_key(t, name, c) for t, name, c in zip(task_id.tolist(), names, counts, strict=True)]
    embedding = np.ascontiguousarray(np.concatenate([x.embedding for x in found]), np.float32)
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.string()),
        "task_id": pa.array(task_id),
        "label": pa.array(names, pa.string()).dictionary_encode(),
        **{name: pa.array(box[:, i]) for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        "counts": pa.array(counts, pa.string()),
        "height": pa.array(hw[:, 0]),
        "width": pa.array(hw[:, 1]),
        "score": pa.array(np.concatenate([x.score for x in found]).astype(np.float32)),
        "quality": pa.array(np.concatenate([x.quality for x in found]).astype(np.float32)),
    }
    if dim:
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), dim)
    return pa.table(columns)


def _task_table(buffer: _Buffer) -> pa.Table:
    import pyarrow as pa

    task_id, sha, height, width, score, n, error = zip(*buffer.tasks, strict=True)
    return pa.table(
        {
            "task_id": pa.array(task_id, pa.int64()),
            "image_sha": pa.array(sha, pa.string()),
            "height": pa.array(height, pa.int32()),
            "width": pa.array(width, pa.int32()),
            "score": pa.array(score, pa.float32()),
            "n_instances": pa.array(n, pa.int64()),
            "error": pa.array(error, pa.string()),
        }
    )


# Reading


def _parts(folder: Path) -> list[str]:
    """Names of committed parts, oldest first."""
    return sorted(p.name for p in (folder / "tasks.parquet").glob("part-*.parquet"))


def _read(path: Path, **options: Any) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, partitioning=None, **options)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} cannot be read ({error})", hint="Delete its folder: the worker makes it again"
        ) from error


def read_tasks(folder: Path) -> TaskTable:
    """The tasks of a pool, in order of first appearance; empty when the pool is not there."""
    return _task_columns(_tasks_with_parts(folder))


def done_tasks(folder: Path) -> set[int]:
    """Ids of tasks the pool holds, broken ones included."""
    return {t for name in _parts(folder) for t in _task_ids(folder / "tasks.parquet" / name)}


def _task_ids(path: Path) -> list[int]:
    return [int(t) for t in _read(path, columns=["task_id"])["task_id"].to_pylist()]


def _tasks_with_parts(folder: Path) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for name in _parts(folder):  # later parts replace earlier ones
        for row in _read(folder / "tasks.parquet" / name).to_pylist():
            rows[int(row["task_id"])] = row
    return rows


def _task_columns(rows: dict[int, dict[str, Any]]) -> TaskTable:
    values = list(rows.values())
    column: Callable[[str], list[Any]] = lambda name: [row[name] for row in values]  # noqa: E731
    return TaskTable(
        np.array(column("task_id"), np.int64),
        _objects(column("image_sha")),
        np.array([column("height"), column("width")], np.int32).reshape(2, -1).T,
        np.array(column("score"), np.float32),
        np.array(column("n_instances"), np.int64),
        _objects(column("error")),
    )


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def read_pool(
    folder: Path, *, columns: Sequence[str] = ALL_COLUMNS, task_ids: Iterable[int] | None = None
) -> PoolTable:
    """Instances of a pool (of ``task_ids`` only, if given); an absent pool is an empty one.

    ``columns`` are names out of ``ALL_COLUMNS``: reading without ``embedding`` is many times faster.
    """
    if unknown := set(columns) - set(ALL_COLUMNS):
        raise ValueError(f"unknown columns {sorted(unknown)}, known: {', '.join(ALL_COLUMNS)}")
    wanted = None if task_ids is None else {int(t) for t in task_ids}
    names = {"task_id", *(f for c in columns for f in _FIELDS.get(c, (c,)))}
    tables = []
    taken: set[int] = set()
    for part in reversed(_parts(folder)):  # newest first: a task counts where it was written last
        ids = _task_ids(folder / "tasks.parquet" / part)
        fresh = {t for t in ids if t not in taken and (wanted is None or t in wanted)}
        taken.update(ids)
        path = folder / "pool.parquet" / part
        if not fresh or not path.exists():
            continue
        have = _schema_names(path)
        table = _read(path, columns=[n for n in have if n in names])
        if len(fresh) < len(set(ids)):
            table = table.filter(np.isin(table["task_id"].to_numpy(), sorted(fresh)))
        tables.append(table)
    return _pool_columns(tables[::-1])


def _schema_names(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} cannot be read ({error})", hint="Delete its folder: the worker makes it again"
        ) from error


def _pool_columns(tables: Sequence[pa.Table]) -> PoolTable:
    def numbers(name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
        found = [t[name].to_numpy() for t in tables if name in t.column_names]
        return np.concatenate(found).astype(kind, copy=False) if found else np.zeros(0, kind)

    def texts(name: str) -> npt.NDArray[np.object_]:
        found = [_strings(t[name]) for t in tables if name in t.column_names]
        return np.concatenate(found) if found else np.zeros(0, object)

    box = [numbers(name, np.float32) for name in ("x0", "y0", "x1", "y1")]
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
    )


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Text column as str objects; repeated values of a dictionary column share one object."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return np.asarray(column.to_numpy(), object)
    parts = [
        _objects(chunk.dictionary.to_pylist())[chunk.indices.to_numpy()]
        if len(chunk)
        else np.zeros(0, object)
        for chunk in column.chunks
    ]
    return np.concatenate(parts) if parts else np.zeros(0, object)


def _embeddings(tables: Sequence[pa.Table]) -> npt.NDArray[np.float32]:
    found = []
    for table in tables:
        if "embedding" in table.column_names:
            array = table["embedding"].combine_chunks()
            width = array.type.list_size
            found.append(array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width))
    rows = sum(len(t) for t in tables)
    return np.concatenate(found).astype(np.float32, copy=False) if found else np.zeros((rows, 0), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class TaskEntry:
    """What a pool holds of one task: the part it stands in, and its row of the task table."""

    part: str
    hw: tuple[int, int]
    score: float
    error: str


class PoolReader:
    """A pool kept open for many small reads: knows in which part each task stands. Safe under threads.

    Parts never change, so only new ones are read; looking for them costs one directory listing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._entries: dict[int, TaskEntry] = {}
        self._kept: OrderedDict[str, PoolTable] = OrderedDict()

    def entry(self, task_id: int) -> TaskEntry | None:
        """What the pool holds of a task, None when it has not been looked at."""
        with self._lock:
            self._refresh()
            return self._entries.get(task_id)

    def read(self, task_ids: Iterable[int]) -> dict[int, PoolTable]:
        """Rows by task (without embeddings) for the tasks the pool holds; each part is opened once."""
        with self._lock:
            self._refresh()
            entries = {t: e for t in task_ids if (e := self._entries.get(int(t))) is not None}
        found: dict[int, PoolTable] = {}
        for part in sorted({e.part for e in entries.values()}):
            rows = self._rows(part)
            for task_id, entry in entries.items():
                if entry.part == part:
                    found[task_id] = rows.take(np.flatnonzero(rows.task_id == task_id))
        return found

    def _rows(self, part: str) -> PoolTable:
        """All rows of a part without embeddings; the parts used last stay in memory."""
        with self._lock:
            if part in self._kept:
                self._kept.move_to_end(part)
                return self._kept[part]
        path = self.folder / "pool.parquet" / part
        names = {n for c in ALL_COLUMNS if c != "embedding" for n in _FIELDS.get(c, (c,))}
        have = [n for n in _schema_names(path) if n in names] if path.exists() else []
        rows = _pool_columns([_read(path, columns=have)] if have else [])
        with self._lock:
            self._kept[part] = rows
            while len(self._kept) > _PARTS_KEPT:
                self._kept.popitem(last=False)
        return rows

    def _refresh(self) -> None:
        for part in _parts(self.folder):  # oldest first: newer parts replace what older ones say of a task
            if part in self._known:
                continue
            for row in _read(self.folder / "tasks.parquet" / part).to_pylist():
                hw = (int(row["height"]), int(row["width"]))
                entry = TaskEntry(part, hw, float(row["score"]), str(row["error"]))
                self._entries[int(row["task_id"])] = entry
            self._known.add(part)


def instances_for_tasks(folder: Path, task_ids: Sequence[int], labels: Sequence[str]) -> dict[int, Instances]:
    """Instances by task for the tasks the pool holds (those without instances too); embeddings are left
    out.
    """
    known = done_tasks(folder) & set(task_ids)
    table = read_pool(folder, columns=[c for c in ALL_COLUMNS if c != "embedding"], task_ids=known)
    return {t: table.take(np.flatnonzero(table.task_id == t)).instances(labels) for t in sorted(known)}
