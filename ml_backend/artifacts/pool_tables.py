"""The columns of a pool: its instances, its tasks, and the keys of its instances."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ml_backend.instances import Instances, Rle

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ALL_COLUMNS",
    "FIELDS",
    "PoolTable",
    "TaskEntry",
    "TaskTable",
    "instance_key",
    "joined",
    "task_of_key",
    "tasks_of_keys",
]

ALL_COLUMNS: Final = ("key", "task_id", "label", "box", "rle", "score", "quality", "embedding", "edges")
"""Names for ``read_pool(columns=…)``; ``box`` is x0, y0, x1, y1 and ``rle`` counts, height, width."""

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "box": ("x0", "y0", "x1", "y1"),
    "rle": ("counts", "height", "width"),
}
"""Columns of the Parquet files behind a name that stands for several."""


def instance_key(task_id: int, label: str, counts: str) -> str:
    """Stable name of an instance: ``t<task>-<8 hex digits of label and mask>``."""
    digest = hashlib.blake2b(f"{label}\0{counts}".encode(), digest_size=4).hexdigest()
    return f"t{task_id}-{digest}"


def task_of_key(key: str) -> int:
    """The task id in an instance key. Raises ValueError when the text is not an instance key."""
    head, _, tail = key.partition("-")
    if not head.startswith("t") or not tail:
        raise ValueError(f"{key!r} is not an instance key")
    return int(head[1:])


def tasks_of_keys(keys: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """``task_of_key`` of a column of texts, (n,) int64. Raises ValueError when one is not an instance key."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = pc.extract_regex(keys, r"^t(?P<task>\d+)-(?:.|\n)")
    if parts.null_count:
        raise ValueError(f"{keys.filter(pc.is_null(parts))[0].as_py()!r} is not an instance key")
    found: npt.NDArray[np.int64] = pc.struct_field(parts, "task").cast(pa.int64()).to_numpy()
    return found


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
    edges : (n, 10) float32, columns ``ml_backend.masks.edges.EDGES``; zeros where they were not
        asked for, and in pools that were written without
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
    edges: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.task_id)

    @property
    def nbytes(self) -> int:
        """Bytes of memory the columns take, their texts included."""
        columns = [getattr(self, name) for name in self.__slots__]
        texts = sum(sum(map(sys.getsizeof, c)) for c in columns if c.dtype == object)
        return sum(int(c.nbytes) for c in columns) + texts

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


def joined(first: PoolTable, second: PoolTable) -> PoolTable:
    """The rows of both tables, which hold the same columns."""
    return PoolTable(
        *(np.concatenate([getattr(first, name), getattr(second, name)]) for name in PoolTable.__slots__)
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


@dataclass(frozen=True, slots=True, eq=False)
class TaskEntry:
    """What a pool holds of one task.

    Attributes
    ----------
    part : file name of the part that holds its instances
    hw : size of the image; zero when it could not be read
    score : confidence for the task order (see ``TaskTable``)
    n_instances : number of instances
    error : why the image could not be read; empty when it could
    """

    part: str
    hw: tuple[int, int]
    score: float
    n_instances: int
    error: str
