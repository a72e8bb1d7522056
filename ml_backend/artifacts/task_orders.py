"""The order in which the tasks of a project are served: written by the worker, read by worker and backend.

``orders/<version>.parquet`` holds one row per task that the model version looked at. Label Studio's
uncertainty sampling serves the lowest score first and breaks ties by id, so every task has a score of its
own: the score says the place, nothing else. It stays while other tasks get finished. A task that comes later
gets a score between two others, where its value says (``place_among``).
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.caches import ByteCache
from ml_backend.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["OrderCache", "OrderedTask", "TaskOrder", "place_among", "read_order", "write_order"]

Floats = npt.NDArray[np.float64]

_CACHE_BYTES: Final = 128 * 1024**2
_ROOM: Final = 1e-12
_KINDS: Final[Mapping[str, type[np.generic]]] = {
    "task_id": np.int64,
    "score": np.float64,
    "value": np.float64,
    "doubt": np.float64,
    "need": np.float64,
    "gain": np.float64,
    "similar": np.int64,
    "explored": np.bool_,
    "inclusion": np.float64,
}


@dataclass(frozen=True, slots=True)
class OrderedTask:
    """Why a task has its place; see ``TaskOrder`` for the fields. ``place`` counts from 1."""

    task_id: int
    place: int
    of: int
    score: float
    value: float
    doubt: float
    need: float
    gain: float
    similar: int
    explored: bool
    inclusion: float
    doubts: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class TaskOrder:
    """The tasks of one model version in order.

    Attributes
    ----------
    key : digest of what the order was made from; another key means another order of all tasks
    about : how it was made: JSON-ready, with ``method`` and what the doubt is computed with
    task_id : (n,) int64, ascending
    score : (n,) float64 in 0..1, lowest served first; no two are equal
    value : (n,) float64, what tasks that come later are compared with; higher = earlier
    doubt : (n,) float64 in 0..1, the share expected to be wrong, or what the method orders by
    need : (n,) float64, need for the classes that the task seems to show
    gain : (n,) float64, what it stood for when it was chosen (NaN: not computed)
    similar : (n,) int64, the task chosen before that is most similar, -1 = none known
    explored : (n,) bool, whether its place was drawn uniformly
    inclusion : (n,) float64, probability of its getting its place, given those before it
    part : (n,) str, the part of the pool that this is about: another one means another picture
    doubts : (n,) str, JSON of the named doubts
    """

    key: str
    about: Mapping[str, Any]
    task_id: npt.NDArray[np.int64]
    score: Floats
    value: Floats
    doubt: Floats
    need: Floats
    gain: Floats
    similar: npt.NDArray[np.int64]
    explored: npt.NDArray[np.bool_]
    inclusion: Floats
    part: npt.NDArray[np.object_]
    doubts: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.task_id)

    @property
    def nbytes(self) -> int:
        """Roughly its memory in bytes."""
        return len(self) * (sum(np.dtype(kind).itemsize for kind in _KINDS.values()) + 300)

    def row(self, task_id: int) -> int | None:
        """The row of a task, None when the order does not hold it."""
        found = int(np.searchsorted(self.task_id, task_id))
        return found if found < len(self) and self.task_id[found] == task_id else None

    def score_of(self, task_id: int) -> float | None:
        """The score of a task, None when the order does not hold it."""
        row = self.row(task_id)
        return None if row is None else float(self.score[row])

    def score_between(self, value: float) -> float:
        """The score that a task of this value would get if it came now."""
        return float(place_among(self.value, self.score, np.array([value]))[0])

    def entry(self, task_id: int, among: Sequence[int] | None = None) -> OrderedTask | None:
        """Everything about one task, with its place among those tasks (all when None)."""
        row = self.row(task_id)
        if row is None:
            return None
        rivals = self.score if among is None else self.score[np.isin(self.task_id, np.asarray(among))]
        place = 1 + int((rivals < self.score[row]).sum())
        numbers = {name: kind(getattr(self, name)[row]).item() for name, kind in _KINDS.items()}
        return OrderedTask(
            place=place, of=len(rivals), doubts=json.loads(self.doubts[row] or "{}"), **numbers
        )

    def without(self, task_ids: Sequence[int]) -> TaskOrder:
        """The order without some tasks."""
        keep = ~np.isin(self.task_id, np.asarray(task_ids, np.int64))
        return self._rows(np.flatnonzero(keep))

    def joined(self, other: TaskOrder) -> TaskOrder:
        """The tasks of both; they hold different ones. Key and method stay those of the first."""
        names = (*_KINDS, "part", "doubts")
        both = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return replace(self, **both)._rows(np.argsort(both["task_id"], kind="stable"))

    def _rows(self, rows: npt.NDArray[np.intp]) -> TaskOrder:
        return replace(self, **{name: getattr(self, name)[rows] for name in (*_KINDS, "part", "doubts")})


def place_among(known_value: Floats, known_score: Floats, value: Floats) -> Floats:
    """(k,) scores for tasks that come later, between those of the n that have one; all differ.

    A task gets the place that its value would have by value alone: a higher value is served earlier, after
    those of the same value, and scores are served lowest first.

    Parameters
    ----------
    known_value : (n,) values of the ranked tasks
    known_score : (n,) their scores in 0..1, all different
    value : (k,) values of the new ones

    Raises ValueError when two scores lie too close together for a further one between them.
    """
    fresh = np.asarray(value, np.float64)
    out = np.empty(len(fresh))
    edges = np.concatenate([[0.0], np.sort(known_score), [1.0]])
    before = np.searchsorted(np.sort(-known_value), -fresh, side="right")
    for place in np.unique(before):
        mine = np.flatnonzero(before == place)
        low, high = edges[place], edges[place + 1]
        if high - low <= _ROOM * (len(mine) + 1):
            raise ValueError("there is no room between two scores")
        ranks = np.argsort(np.argsort(-fresh[mine], kind="stable"), kind="stable")
        out[mine] = low + (high - low) * (ranks + 1.0) / (len(mine) + 1.0)
    return out


def write_order(path: Path, order: TaskOrder, *, guard: Guard = unguarded) -> None:
    """Replace the file of an order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array(getattr(order, name).astype(kind)) for name, kind in _KINDS.items()}
    for name in ("part", "doubts"):
        columns[name] = pa.array(getattr(order, name).tolist(), pa.string())
    table = pa.table(columns).replace_schema_metadata(
        {"key": order.key, "about": json.dumps(dict(order.about), sort_keys=True)}
    )
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    write_atomic(path, file.getvalue(), guard=guard)


def read_order(path: Path) -> TaskOrder | None:
    """The order in a file, None when it is not there. Raises StorageError when it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table: pa.Table = file.read()
        about = table.schema.metadata or {}
        columns: dict[str, Any] = {
            name: table[name].to_numpy().astype(kind, copy=False) for name, kind in _KINDS.items()
        }
        for name in ("part", "doubts"):
            texts = np.empty(len(table), object)
            texts[:] = table[name].to_pylist()
            columns[name] = texts
        return TaskOrder(about[b"key"].decode(), json.loads(about[b"about"]), **columns)
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read as an order of tasks ({error})",
            hint="Delete it: the worker makes it again",
        ) from error


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: tuple[int, int]
    order: TaskOrder = field(repr=False)


class OrderCache:
    """Orders of model versions, read again when the worker has replaced them. Safe under threads."""

    def __init__(self, data_dir: Path, *, max_bytes: int = _CACHE_BYTES) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._kept: ByteCache[Path, _Read] = ByteCache(max_bytes, lambda read: read.order.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the orders held now."""
        return self._kept.nbytes

    def of(self, project_id: int, version: str) -> TaskOrder | None:
        """The order of a version as it is now, None when it has none. Raises StorageError."""
        path = ProjectPaths(self._data_dir, project_id).order(version)
        try:
            now = path.stat()
        except FileNotFoundError:
            return None
        stamp = (now.st_ino, now.st_mtime_ns)
        with self._lock:  # one thread reads a new order, the others wait for it
            found = self._kept.get(path)
            if found is None or found.stamp != stamp:
                order = read_order(path)
                if order is None:
                    return None
                found = _Read(stamp, order)
                self._kept.put(path, found)
            return found.order
