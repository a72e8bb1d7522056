"""Projects of any size with a model that was never trained, for ``bench.sync``: round, version and pool are
written as the worker writes them, so that a look finds nothing left to train or to infer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.instances import Instances, Rle
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region
from ml_backend.masks.rle import encode_mask
from ml_backend.masks.shapes import boxes_of
from sync.rounds.project import OpenProject
from sync.rounds.round_records import finish_step
from sync.rounds.task_queries import finished_test_ids, open_task_ids
from sync.rounds.train import start_round
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import AnnotationRecord, ProjectRecord, TaskRecord
from sync.studio.protocol import ProjectRow, TaskRow

__all__ = ["CONFIG", "Level", "add_model", "address", "drawn", "fill_store", "mask_of", "settings_for"]

LABELS = ("cell", "spot")
CONFIG = build_label_config(LABELS)
HW = (768, 1024)
START = datetime(2024, 5, 1, tzinfo=UTC)
_KEY = f"1.{int(START.timestamp())}"
_RADII = (40, 150)


def settings_for(folder: Path, **options: Any) -> Settings:
    """Settings of a worker that trains nothing, asks nothing (there are no pictures to cut), and pushes at
    once.
    """
    given = {
        "retrain_after": 10**6,
        "question_budget": 0,
        "push_interval_s": 0.0,
        "mistakes": "off",
        "train_clicks": False,
        "embed_ahead": 0,
        "order_diversity": 0.0,
        **options,
    }
    return Settings(data_dir=folder / "data", **given)


def address(number: int) -> str:
    """The address of a picture that does not exist: no figure needs its pixels."""
    return f"/no-pictures/{number:06d}.png"


def mask_of(number: int, radius: int) -> Rle:
    """A disc; Label Studio's form of it takes about 100 bytes for each pixel of its radius."""
    y, x = np.ogrid[: HW[0], : HW[1]]
    centre_y, centre_x = 160 + (number * 37) % 440, 160 + (number * 53) % 700
    return encode_mask((y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2)


def drawn(number: int) -> list[dict[str, Any]]:
    """What a person draws on a picture: two small discs."""
    regions = [
        Region(f"r{i}", "mask", LABELS[i], mask_of(number + i, 12), (0.0, 0.0, 1.0, 1.0)) for i in range(2)
    ]
    return to_result(regions, parse_label_config(CONFIG), HW)


def add_model(project: OpenProject, *, radius: int) -> None:
    """Give the project a first round with a version, and a pool with two discs of ``radius`` on each task."""
    db, settings, paths = project.db, project.settings, project.paths
    record = start_round(db, project.config, settings, paths, early=False)

    def build(folder: Path) -> Mapping[str, Any]:
        (folder / "weights").write_bytes(b"none")
        return {"learner": "classical", "labels": list(LABELS), "round": record.number, "origin": "trained"}

    ModelRegistry(settings.data_dir).publish(db.id, record.model_version, build, make_current=False)
    finish_step(db, paths, record.number, "train", {"seconds": 0.0, "version": record.model_version})
    kinds = [_found(number, radius) for number in range(50)]
    tasks = [*open_task_ids(db), *finished_test_ids(db, record.split)]
    with PoolWriter(paths.pool(record.model_version), LABELS, embedding_dim=2) as writer:
        for number, task in enumerate(sorted(tasks)):
            writer.add(task, kinds[number % len(kinds)], hw=HW, score=0.5)


def _found(number: int, radius: int) -> Instances:
    masks = [mask_of(number + i, radius) for i in range(2)]
    return Instances(
        np.arange(2), boxes_of(masks).astype(np.float32), masks, np.array([0.9, 0.6], np.float32),
        np.full(2, 0.8, np.float32), np.array([[number, 0.0], [number, 1.0]], np.float32),
    )  # fmt: skip


class Level:
    """A Label Studio that holds what the store holds, without a server: what a look costs ourselves.

    It answers the calls of an idle look and of a push; ``calls`` counts them.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._versions: dict[str, int] = {}
        self._shown = ""
        self.calls = 0

    def project(self, project_id: int) -> ProjectRow:
        self.calls += 1
        return ProjectRow(1, "bench", CONFIG, self._shown, _KEY, self._count)

    def tasks(self, project_id: int, *, changed_since: datetime | None = None) -> Iterator[TaskRow]:
        self.calls += 1
        yield from ()

    def server_time(self) -> datetime | None:
        return datetime.now(UTC)

    def task_times(self, project_id: int, *, after: int = 0, limit: int | None = None) -> dict[int, datetime]:
        self.calls += 1
        numbers = list(range(after + 1, self._count + 1))[:limit]
        return {number: START + timedelta(seconds=number) for number in numbers}

    def prediction_versions(self, project_id: int) -> dict[str, int]:
        self.calls += 1
        return dict(self._versions)

    def import_predictions(self, project_id: int, rows: Sequence[Any]) -> int:
        self.calls += 1
        for row in rows:
            self._versions[row.model_version] = self._versions.get(row.model_version, 0) + 1
        return len(rows)

    def set_model_version(self, project_id: int, model_version: str) -> None:
        self.calls += 1
        self._shown = model_version

    def set_instruction(self, project_id: int, html: str) -> None:
        self.calls += 1

    def users(self) -> list[Any]:
        self.calls += 1
        return []

    def views(self, project_id: int) -> list[Any]:
        self.calls += 1
        return []


def fill_store(store: Store, count: int, finished: int) -> None:
    """Project 1 with ``count`` tasks as a pull leaves them, the first ``finished`` of them with two discs."""
    regions = [
        {"id": f"r{i}", "label": LABELS[i], "rle": mask_of(i, 12), "box_xyxy": [0, 0, 9, 9]} for i in range(2)
    ]
    now = datetime.now(UTC)
    with store.write() as session:
        session.add(
            ProjectRecord(
                id=1, key=_KEY, title="bench", label_config=CONFIG, options={}, watermark=now,
                compared_at=now, compared_surplus=0, pulled_at=now,
            )
        )  # fmt: skip
    said = {"was_cancelled": False, "ground_truth": False, "created_at": START, "digest": "d" * 64}
    for start in range(1, count + 1, 1000):
        ids = range(start, min(start + 1000, count + 1))
        tasks = [
            {
                "id": n, "project_id": 1, "data": {"image": address(n)}, "image": address(n),
                "updated_at": START + timedelta(seconds=n), "finished": n <= finished,
            }
            for n in ids
        ]  # fmt: skip
        notes = [
            {
                "id": n,
                "task_id": n,
                "project_id": 1,
                "updated_at": START,
                "completed_by": 1,
                "regions": regions,
            }
            | said
            for n in ids
            if n <= finished
        ]
        with store.write() as session:
            session.execute(insert(TaskRecord), tasks)
            if notes:
                session.execute(insert(AnnotationRecord), notes)
