"""Seconds and peak memory of exports and imports, by the number of pictures.

    python -m bench.exchange 1000 10000

Each line is a process of its own. A picture has one task and five masks of an ellipse each. Memory should
hardly grow from the first number to the second: what grows are the names and ids of tasks.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from ml_backend.images.store import ImageStore
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.rle import encode_mask
from sync.exchange.export import export_project
from sync.exchange.import_labels import import_labels
from sync.exchange.import_regions import LabelNames
from sync.exchange.import_report import ProblemFile
from sync.exchange.import_targets import ImportPlan
from sync.exchange.readers.registry import open_reader
from sync.settings import Settings
from sync.store.database import Store
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, ProjectRecord, TaskRecord
from sync.studio.protocol import ProjectRow, TaskRow

LABELS = ("cell", "spot")
CONFIG = build_label_config(LABELS)
HW = (480, 640)
FORMATS = ("coco", "masks", "yolo", "voc", "parquet")
NOW = datetime(2024, 5, 1, tzinfo=UTC)


class Listing:
    """As much of Label Studio as an import asks for; nothing is stored."""

    def __init__(self, count: int) -> None:
        self._count = count

    def project(self, project_id: int) -> ProjectRow:
        return ProjectRow(1, "bench", CONFIG, "", "1.1", self._count)

    def task_data(self, project_id: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number in range(1, self._count + 1):
            yield number, {"image": f"https://example.org/{number:06d}.jpg"}

    def tasks(self, project_id: int) -> Iterator[TaskRow]:
        yield from ()


def build(folder: Path, count: int) -> None:
    """A store with ``count`` finished tasks."""
    store = Store(f"sqlite:///{folder / 'store.db'}")
    y, x = np.mgrid[: HW[0], : HW[1]]
    rows = []
    for i in range(5):
        mask = ((x - 80 - 110 * i) / 40.0) ** 2 + ((y - 200 - 9 * i) / 60.0) ** 2 < 1
        rle = encode_mask(mask)
        row = {"id": f"r{i}", "label": LABELS[i % 2], "rle": rle, "box_xyxy": [1, 1, 9, 9]}
        rows.append(row)
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.1", title="bench", label_config=CONFIG, options={}))
    common = {"project_id": 1, "updated_at": NOW}
    for start in range(1, count + 1, 1000):
        ids = range(start, min(start + 1000, count + 1))
        tasks = [
            {**common, "id": n, "data": {}, "image": f"https://example.org/{n:06d}.jpg", "finished": True}
            for n in ids
        ]
        said = {"was_cancelled": False, "ground_truth": False, "created_at": NOW, "digest": "d"}
        notes = [{**common, **said, "id": n, "task_id": n, "completed_by": 1, "regions": rows} for n in ids]
        with store.write() as session:
            session.execute(insert(TaskRecord), tasks)
            session.execute(insert(AnnotationRecord), notes)
    store.close()


def export_once(folder: Path, format: str) -> None:
    from ml_backend.artifacts.paths import ProjectPaths

    store = Store(f"sqlite:///{folder / 'store.db'}")
    settings = Settings(data_dir=folder / "data")
    db = ProjectStore(1, "1.1", "bench", store)
    export_project(
        db, parse_label_config(CONFIG), ProjectPaths(folder / "data", 1), ImageStore(settings),
        folder / f"out-{format}", format=format,
    )  # fmt: skip
    store.close()


def import_once(folder: Path, format: str, count: int) -> None:
    names = LabelNames(LABELS, {})
    reader = open_reader(format, folder / f"out-{format}", names.known)
    studio: Any = Listing(count)
    images = ImageStore(Settings(data_dir=folder / "data"))
    with ProblemFile(None) as problems:
        done = import_labels(
            studio,
            1,
            parse_label_config(CONFIG),
            images,
            reader,
            names,
            ImportPlan(format, dry_run=True),
            problems,
        )
    assert done.rejected == 0 or format == "yolo", done  # a YOLO data set says no sizes


def main() -> None:
    if sys.argv[1] == "--one":
        _, _, what, format, place, count = sys.argv
        started = time.monotonic()
        if what == "export":
            export_once(Path(place), format)
        else:
            import_once(Path(place), format, int(count))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([round(time.monotonic() - started, 1), round(peak)]))
        return
    print("| what | format | " + " | ".join(f"{n} pictures" for n in sys.argv[1:]) + " |")
    with tempfile.TemporaryDirectory() as top:
        for count in sys.argv[1:]:
            (Path(top) / count).mkdir()
            build(Path(top) / count, int(count))
        for format in FORMATS:
            for what in ("export", "import") if format in ("coco", "masks", "voc") else ("export",):
                cells = []
                for count in sys.argv[1:]:
                    line = [
                        sys.executable,
                        "-m",
                        "bench.exchange",
                        "--one",
                        what,
                        format,
                        str(Path(top) / count),
                        count,
                    ]
                    seconds, peak = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
                    cells.append(f"{seconds} s, {peak} MB")
                print(f"| {what} | {format} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
