"""Reading single tasks of a pool of many parts, in one run. Prints JSON lines, times in milliseconds.

``look_up``: one task through an open pool, which knows in which part each task stands. The ``baseline`` reads
the pool's index anew for each look-up and so opens every part. ``first_look_up``: the same in a process that
has not read the pool yet; ``all_tasks``: one row per task with the digest of its picture. Here the
``baseline`` has no ``index.parquet``, as in pools of earlier releases. ``ratio`` is baseline / value (higher
is better). ``index`` is what the file costs: bytes, and the time to write it again.

``python -m bench.pool_lookup [--quick] [--parts 1600]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ml_backend.artifacts.pool_index_file import parts_behind, write_index_file
from ml_backend.artifacts.pool_reader import PoolReader
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.pool_writer import write_pool
from ml_backend.artifacts.pools import read_pool, read_tasks
from ml_backend.instances import Instances
from ml_backend.masks.rle import encode_mask

COLUMNS = ("key", "task_id", "label", "box", "rle", "score", "quality")


def some_instances(rng: np.random.Generator, n: int) -> Instances:
    """n squares on an image of 64 × 64 pixels, embeddings of 16 numbers."""
    rles = []
    for _ in range(n):
        mask = np.zeros((64, 64), bool)
        y, x = rng.integers(0, 50, 2)
        mask[y : y + 10, x : x + 10] = True
        rles.append(encode_mask(mask))
    ones = np.ones(n, np.float32)
    return Instances(
        np.zeros(n, np.int64),
        np.zeros((n, 4), np.float32),
        rles,
        ones,
        ones,
        rng.random((n, 16)).astype(np.float32),
    )


def timed(work: Callable[[], object], times: int = 3) -> float:
    """Milliseconds, the median of some runs."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent)


def line(name: str, value: float, baseline: float) -> None:
    """Print one figure with what it is compared with."""
    fields = {"value": round(value, 2), "unit": "ms", "baseline": round(baseline, 1)}
    print(json.dumps({"name": f"pools/{name}", **fields, "ratio": round(baseline / value, 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 parts")
    parser.add_argument("--parts", type=int, default=300)
    given = parser.parse_args()
    parts = 40 if given.quick else given.parts
    tasks_per_part, rng = 64, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ready = [some_instances(rng, 3) for _ in range(64)]
        rows = (
            (t, ready[t % 64], {"hw": (64, 64), "image_sha": rng.bytes(32).hex()})
            for t in range(parts * tasks_per_part)
        )
        write_pool(folder, ("cell",), rows, embedding_dim=16, tasks_per_part=tasks_per_part)
        behind = parts_behind(folder)
        wanted = rng.choice(parts * tasks_per_part, 200, replace=False).tolist()
        reader = PoolReader(folder)
        first = timed(lambda: PoolReader(folder).read(wanted[:1]))
        reader.read(wanted[:1])
        found: list[PoolTable] = []
        value = timed(lambda: found.extend(reader.read([task])[task] for task in wanted), 1) / len(wanted)
        tasks = timed(lambda: read_tasks(folder))
        write = timed(lambda: write_index_file(folder))
        size = (folder / "index.parquet").stat().st_size
        (folder / "index.parquet").unlink()
        plain: list[PoolTable] = []
        baseline = timed(
            lambda: plain.extend(read_pool(folder, columns=COLUMNS, task_ids=[task]) for task in wanted[:3]),
            1,
        )
        line(f"look_up_of_{parts}_parts", value, baseline / 3)
        line(f"first_look_up_of_{parts}_parts", first, timed(lambda: PoolReader(folder).read(wanted[:1])))
        line(f"all_tasks_of_{parts}_parts", tasks, timed(lambda: read_tasks(folder)))
    if any(list(a.key) != list(b.key) for a, b in zip(found, plain, strict=False)):
        raise SystemExit("an open pool gives other rows than the files")
    fields = {"name": f"pools/index_of_{parts}_parts", "value": round(write, 1), "unit": "ms"}
    print(json.dumps({**fields, "bytes": size, "parts_behind": behind}), flush=True)


if __name__ == "__main__":
    main()
