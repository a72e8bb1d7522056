"""Seconds and peak memory of exports and imports, by the number of tasks.

    python -m bench.exchange 10000 100000
    python -m bench.exchange 10000 100000 --formats coco csv --what export

Each line is a process of its own. Half of the tasks were finished by people, the other half holds masks
that the last round accepted: store, pool and verdicts are made directly, without Label Studio and without
pictures. A picture of 160×120 pixels has three masks, one of them with a long outline. For csv it is a
project of classes.
``ratio`` is the peak of the last number by that of the first. Names and ids of tasks may grow.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.artifacts.verdicts import Verdict, write_verdicts
from ml_backend.images.store import ImageStore
from ml_backend.instances import Instances, Rle
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.masks.rle import encode_mask
from ml_backend.masks.shapes import boxes_of, whole_rle
from sync.exchange.export import export_project
from sync.exchange.import_labels import import_labels
from sync.exchange.import_regions import LabelNames
from sync.exchange.import_report import ProblemFile
from sync.exchange.import_targets import ImportPlan
from sync.exchange.readers.registry import open_reader
from sync.settings import Settings
from sync.store.database import Store
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, ProjectRecord, RoundRecord, TaskRecord
from sync.studio.protocol import ProjectRow, TaskRow

LABELS = ("cell", "spot")
HW = (120, 160)
FORMATS = ("coco", "yolo", "voc", "masks", "csv", "parquet")
IMPORTED = ("coco", "masks", "voc", "csv")
"""formats that say the size of a picture or need none"""
NOW = datetime(2024, 5, 1, tzinfo=UTC)
VERSION = "bench-r1"


class Listing:
    """As much of Label Studio as an import asks for; nothing is stored."""

    def __init__(self, count: int, config: str) -> None:
        self._count, self._config = count, config

    def project(self, project_id: int) -> ProjectRow:
        return ProjectRow(1, "bench", self._config, "", "1.1", self._count)

    def task_data(self, project_id: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number in range(1, self._count + 1):
            yield number, {"image": _address(number)}

    def tasks(self, project_id: int, *, changed_since: datetime | None = None) -> Iterator[TaskRow]:
        yield from ()


def _address(number: int) -> str:
    return f"https://example.org/pictures/{number:06d}.jpg"


def _config(kind: str) -> str:
    return build_label_config(LABELS, kind=kind)  # type: ignore[arg-type]


def _masks() -> list[Rle]:
    y, x = np.mgrid[: HW[0], : HW[1]]
    waves = np.hypot(x - 125, y - 35) < 22 + 3 * np.sin(9 * np.arctan2(y - 35, x - 125))
    ellipses = [((x - 30 - 45 * i) / 17.0) ** 2 + ((y - 60 - 10 * i) / 22.0) ** 2 < 1 for i in range(2)]
    return [encode_mask(mask) for mask in (*ellipses, waves)]


def build(folder: Path, count: int, kind: str) -> None:
    """A store with ``count`` tasks, half of them finished, and what a round accepted on the others."""
    store = Store(f"sqlite:///{folder / 'store.db'}")
    paths = ProjectPaths(folder / "data", 1)
    masks = _masks()
    boxes = boxes_of(masks).tolist()
    rows: list[dict[str, Any]] = [
        {"id": f"r{i}", "label": LABELS[i % 2], "rle": mask, "box_xyxy": boxes[i]}
        for i, mask in enumerate(masks)
    ]
    if kind == "classes":
        rows = [{"id": "r0", "label": LABELS[0], "rle": None, "box_xyxy": []}]
        masks = [whole_rle(HW)]
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.1", title="bench", label_config=_config(kind), options={}))
        session.flush()
        session.add(
            RoundRecord(
                project_id=1, number=1, model_version=VERSION, digest="d", step="push", finished_tasks=count,
                review_done=True, started_at=NOW, updated_at=NOW, figures={},
            )
        )  # fmt: skip
    common = {"project_id": 1, "updated_at": NOW}
    said = {"was_cancelled": False, "ground_truth": False, "created_at": NOW, "digest": "d"}
    for start in range(1, count + 1, 1000):
        ids = range(start, min(start + 1000, count + 1))
        tasks = [
            {**common, "id": n, "data": {"image": _address(n)}, "image": _address(n), "finished": n % 2 == 1}
            for n in ids
        ]
        notes = [
            {**common, **said, "id": n, "task_id": n, "completed_by": 1, "regions": rows}
            for n in ids
            if n % 2
        ]
        with store.write() as session:
            session.execute(insert(TaskRecord), tasks)
            session.execute(insert(AnnotationRecord), notes)
    store.close()
    _accept(paths, range(2, count + 1, 2), masks)


def _accept(paths: ProjectPaths, tasks: Sequence[int], masks: Sequence[Rle]) -> None:
    """A pool of the tasks, and verdicts that accept all of it."""
    n = len(masks)
    found = Instances(
        np.arange(n) % 2, boxes_of(masks).astype(np.float32), masks, np.full(n, 0.9, np.float32),
        np.full(n, 0.8, np.float32), np.zeros((n, 0), np.float32),
    )  # fmt: skip
    verdicts = []
    with PoolWriter(paths.pool(VERSION), LABELS, embedding_dim=0) as writer:
        for task in tasks:
            writer.add(task, found, hw=HW)
            for i, mask in enumerate(masks):
                key = instance_key(task, LABELS[i % 2], str(mask["counts"]))
                verdicts.append(Verdict(key, LABELS[i % 2], 1, False, 1, 7, 0.9, 0.97, 0.95, "certified"))
    write_verdicts(paths.round(1), verdicts)


def export_once(folder: Path, format: str, kind: str) -> None:
    store = Store(f"sqlite:///{folder / 'store.db'}")
    settings = Settings(data_dir=folder / "data")
    db = ProjectStore(1, "1.1", "bench", store)
    done = export_project(
        db, parse_label_config(_config(kind)), ProjectPaths(folder / "data", 1), ImageStore(settings),
        folder / f"out-{format}", format=format,
    )  # fmt: skip
    assert not done.left_out, done.left_out[:3]
    store.close()


def import_once(folder: Path, format: str, count: int, kind: str) -> None:
    names = LabelNames(LABELS, {})
    reader = open_reader(format, folder / f"out-{format}", names.known)
    studio: Any = Listing(count, _config(kind))
    images = ImageStore(Settings(data_dir=folder / "data"))
    with ProblemFile(None) as problems:
        done = import_labels(
            studio, 1, parse_label_config(_config(kind)), images, reader, names,
            ImportPlan(format, dry_run=True), problems,
        )  # fmt: skip
    assert (done.rejected, done.created) == (0, count), done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("counts", type=int, nargs="+", help="numbers of tasks")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--what", nargs="+", choices=["export", "import"], default=["export", "import"])
    parser.add_argument("--folder", type=Path, help="keep what is made here, and use what is there")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "FORMAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        _one(*options.one, options.folder, options.counts[0])
        return
    with tempfile.TemporaryDirectory() as scratch:
        _table(options, options.folder or Path(scratch))


def _table(options: argparse.Namespace, top: Path) -> None:
    print(f"| what | format | {' | '.join(f'{n} tasks' for n in options.counts)} | ratio |", flush=True)
    for format in options.formats:
        kind = "classes" if format == "csv" else "instances"
        for what in options.what:
            if what == "import" and format not in IMPORTED:
                continue
            cells, peaks = [], []
            for count in options.counts:
                place = top / f"{kind}-{count}"
                if not (place / "made").exists():
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir(parents=True)
                    build(place, count, kind)
                    (place / "made").touch()
                if what == "export":
                    _remove(place / f"out-{format}")
                line = [sys.executable, "-m", "bench.exchange", str(count), "--one", what, format]
                out = subprocess.run([*line, "--folder", str(place)], capture_output=True, text=True)
                if out.returncode:
                    sys.exit(out.stderr)
                seconds, busy, peak = json.loads(out.stdout)
                cells.append(f"{seconds} s ({busy} s of a core), {peak} MB")
                peaks.append(peak)
            print(f"| {what} | {format} | {' | '.join(cells)} | {peaks[-1] / peaks[0]:.2f} |", flush=True)
        for count in options.counts:
            _remove(top / f"{kind}-{count}" / f"out-{format}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _one(what: str, format: str, place: Path, count: int) -> None:
    kind = "classes" if format == "csv" else "instances"
    started = time.monotonic()
    if what == "export":
        export_once(place, format, kind)
    else:
        import_once(place, format, count, kind)
    print(json.dumps([round(time.monotonic() - started, 1), round(time.process_time(), 1), _peak_mb()]))


def _peak_mb() -> int:
    """Peak memory of this program. What ``getrusage`` says begins with that of the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


if __name__ == "__main__":
    main()
