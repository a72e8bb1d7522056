"""Reading single tasks of a pool of many parts: milliseconds a task, in one run. Prints JSON lines.

``value`` is a look-up through an open pool, which knows in which part each task stands; ``baseline`` reads
the pool's index anew for each look-up and so opens every part; ``ratio`` is baseline / value (higher is
better). ``first`` is what the first look-up of a process costs. ``python -m bench.pool_lookup [--quick]``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from ml_backend.artifacts.pool_reader import PoolReader
from ml_backend.artifacts.pool_writer import write_pool
from ml_backend.artifacts.pools import read_pool
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="30 parts instead of 300")
    parts = 30 if parser.parse_args().quick else 300
    tasks_per_part, rng = 64, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = ((t, some_instances(rng, 3), {"hw": (64, 64)}) for t in range(parts * tasks_per_part))
        write_pool(folder, ("cell",), rows, embedding_dim=16, tasks_per_part=tasks_per_part)
        wanted = rng.choice(parts * tasks_per_part, 200, replace=False).tolist()
        reader = PoolReader(folder)
        began = time.perf_counter()
        reader.read(wanted[:1])
        first = time.perf_counter() - began
        began = time.perf_counter()
        found = [reader.read([task])[task] for task in wanted]
        value = (time.perf_counter() - began) / len(wanted)
        began = time.perf_counter()
        plain = [read_pool(folder, columns=COLUMNS, task_ids=[task]) for task in wanted[:5]]
        baseline = (time.perf_counter() - began) / 5
    if any(list(a.key) != list(b.key) for a, b in zip(found, plain, strict=False)):
        raise SystemExit("an open pool gives other rows than the files")
    line = {
        "name": f"pools/look_up_of_{parts}_parts",
        "value": round(value * 1000, 3),
        "unit": "ms",
        "baseline": round(baseline * 1000, 1),
        "ratio": round(baseline / value, 1),
        "first": round(first * 1000, 1),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
