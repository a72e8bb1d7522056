"""Writing a pool part by part; see ``ml_backend.artifacts.pools`` for the files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from ml_backend.artifacts.pool_index_file import BEHIND, parts_behind, write_index_file
from ml_backend.artifacts.pool_parts import INSTANCES, TASKS, has_edges, part_names
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.instances import Instances
from ml_backend.masks.edges import EDGES, edge_statistics
from ml_backend.masks.empty import without_empty_masks

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PoolWriter", "write_pool"]


@dataclass(slots=True)
class _Buffer:
    tasks: list[tuple[int, str, int, int, float, int, str, str]] = field(default_factory=list)
    instances: list[tuple[int, tuple[int, int], Instances]] = field(default_factory=list)
    edges: list[npt.NDArray[np.float32] | None] = field(default_factory=list)


class PoolWriter:
    """Adds tasks to a pool; every ``tasks_per_part`` tasks become one durable part. Use as a context manager.

    Several writers on one folder are safe: parts have names of their own. Every ``BEHIND`` parts the
    pool's index is written again, see ``pool_index_file``.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        *,
        embedding_dim: int,
        tasks_per_part: int = 256,
        guard: Guard = unguarded,
    ) -> None:
        self._folder = folder
        self._labels = tuple(labels)
        self._dim = embedding_dim
        self._tasks_per_part = tasks_per_part
        self._guard = guard
        self._buffer = _Buffer()
        self._edges: bool | None = None  # whether this pool has them; looked up with the first instances
        self._behind: int | None = None  # parts that the index lacks; looked up with the first part

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
        image: npt.NDArray[np.uint8] | None = None,
        edges: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """One task with its instances (none and an ``error`` text when its image could not be read).

        Instances whose mask is empty are left out, whoever made them: they could never be shown. With the
        ``image``, (h, w, 3) uint8 RGB, the pool also says how well the masks fit its edges, unless it holds
        instances of which it does not (see ``has_edges``); ``edges`` says it where that was worked out
        elsewhere, one row for each instance whose mask is not empty. Raises ValueError when the embeddings
        have another width than the pool's, or there are more or fewer edges. The doubts that the model itself
        names are kept with the task.
        """
        instances = without_empty_masks(instances)
        if len(instances) and instances.embedding.shape[1] != self._dim:
            raise ValueError(
                f"embeddings have {instances.embedding.shape[1]} columns, this pool has {self._dim}"
            )
        edges = self._edges_of(instances, image, edges)
        doubts = json.dumps(dict(instances.doubts), sort_keys=True) if instances.doubts else ""
        self._buffer.tasks.append(
            (task_id, image_sha, hw[0], hw[1], float(score), len(instances), error, doubts)
        )
        if len(instances):
            self._buffer.instances.append((task_id, hw, instances))
            self._buffer.edges.append(edges)
        if len(self._buffer.tasks) >= self._tasks_per_part:
            self.flush()

    def _edges_of(
        self,
        instances: Instances,
        image: npt.NDArray[np.uint8] | None,
        known: npt.NDArray[np.float32] | None,
    ) -> npt.NDArray[np.float32] | None:
        if (image is None and known is None) or not len(instances):
            return None
        if self._edges is None:
            self._edges = has_edges(self._folder)
        if not self._edges:
            return None
        if known is None and image is not None:
            return edge_statistics(image, instances.rle)
        if known is not None and len(known) != len(instances):
            raise ValueError(f"{len(known)} rows of edges for {len(instances)} instances")
        return known

    def flush(self) -> None:
        """Write what was added since the last part."""
        if not self._buffer.tasks:
            return
        buffer, self._buffer = self._buffer, _Buffer()
        stem = f"part-{_next_number(self._folder):06d}-{os.urandom(4).hex()}.parquet"
        if buffer.instances:
            _write_table(
                self._folder / INSTANCES / stem, _instance_table(buffer, self._labels, self._dim), self._guard
            )
        _write_table(self._folder / TASKS / stem, _task_table(buffer), self._guard)
        self._behind = parts_behind(self._folder) if self._behind is None else self._behind + 1
        if self._behind >= BEHIND:
            write_index_file(self._folder, guard=self._guard)
            self._behind = 0


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
    return 1 + max((int(name.split("-")[1]) for name in part_names(folder)), default=-1)


def _write_table(path: Path, table: pa.Table, guard: Guard) -> None:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    # Floats do not compress and have no repeats: storing them plainly makes reading several times faster.
    squeeze = {name: "zstd" for name in table.column_names if name not in ("embedding", "edges")}
    pq.write_table(table, file, compression=squeeze, use_dictionary=["label"])
    write_atomic(path, file.getvalue(), guard=guard)


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
    edges = [known for known in buffer.edges if known is not None]
    if len(edges) == len(buffer.edges):
        flat = pa.array(np.concatenate(edges).reshape(-1))
        columns["edges"] = pa.FixedSizeListArray.from_arrays(flat, len(EDGES))
    return pa.table(columns)


def _task_table(buffer: _Buffer) -> pa.Table:
    import pyarrow as pa

    task_id, sha, height, width, score, n, error, doubts = zip(*buffer.tasks, strict=True)
    return pa.table(
        {
            "task_id": pa.array(task_id, pa.int64()),
            "image_sha": pa.array(sha, pa.string()),
            "height": pa.array(height, pa.int32()),
            "width": pa.array(width, pa.int32()),
            "score": pa.array(score, pa.float32()),
            "n_instances": pa.array(n, pa.int64()),
            "error": pa.array(error, pa.string()),
            "doubts": pa.array(doubts, pa.string()),
        }
    )
