"""Push: a prediction for every unfinished task, under a version that names model and decisions.

The version label is ``<model version>.<digest of the decisions>``; pushing is a comparison: tasks that hold a
prediction of this label are done, the others are sent in bulk (each small import costs Label Studio a pass
over the whole project). Only when all are there is the project switched to the label, and only then are the
older ones retired, so annotators see the old set or the new one, and a kill anywhere is followed by the same
comparison.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import read_index
from ml_backend.artifacts.pool_tables import PoolTable, TaskTable
from ml_backend.artifacts.pools import read_pool, read_tasks
from ml_backend.artifacts.verdicts import VerdictTable, read_verdicts
from ml_backend.clicks.serving.prewarm import save_upcoming
from ml_backend.errors import BadInput, StudioError
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.label_studio.region_check import validate_result
from ml_backend.task_prediction import make_prediction
from sync.rounds.progress import Progress
from sync.rounds.round_records import digest_of, finish_step, update_round, version_prefix
from sync.rounds.task_queries import open_task_ids, task_images
from sync.settings import Settings
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord
from sync.studio.protocol import PredictionRow, StudioClient

__all__ = ["PushReport", "push", "push_version", "serving_order"]

_READ_TASKS = 256
_COLUMNS = ("key", "task_id", "label", "box", "rle", "score", "quality")


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did: rows sent now, tasks that hold a prediction now, older versions removed."""

    version: str
    sent: int
    tasks: int
    accepted: int
    retired: tuple[str, ...]


def push_version(
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    verdicts: VerdictTable | None = None,
) -> str:
    """The prediction version of a round as decided so far (``verdicts``: as read already)."""
    verdicts = read_verdicts(paths.round(record.number)) if verdicts is None else verdicts
    shown = (verdicts.digest, config.digest, settings.push_min_score)
    return f"{record.model_version}.{digest_of(shown)[:8]}"


def push(
    db: ProjectStore,
    studio: StudioClient,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    progress: Progress,
    record: RoundRecord,
) -> PushReport:
    """Make Label Studio show the round's instances and decisions; safe to repeat and to kill anywhere.

    Raises StudioError when Label Studio refuses a chunk; what was sent before stays and is not sent again.
    """
    started = time.monotonic()
    folder = paths.pool(record.model_version)
    verdicts = read_verdicts(paths.round(record.number))
    version = push_version(config, settings, paths, record, verdicts)
    tasks = read_tasks(folder)
    wanted = _wanted(db, tasks)
    have = studio.predicted_tasks(db.id, version)
    missing = [task for task in wanted if task not in have]
    sent = accepted = 0
    for chunk in _chunks(settings, _rows(config, settings, paths, record, version, missing, tasks, verdicts)):
        progress.at("push.chunk")
        created = studio.import_predictions(db.id, chunk)
        if created != len(chunk):
            raise StudioError(
                f"Label Studio kept {created} of {len(chunk)} predictions",
                field=f"project {db.id}",
                hint="The rest is sent at the next look; compare the label config with the model's labels",
            )
        sent += len(chunk)
        accepted += sum("meta" in item for row in chunk for item in row.result)
        progress.report("push", 0.9 * sent / len(missing), f"{sent} of {len(missing)} sent")
    retired: list[str] = []
    if wanted:
        progress.at("push.switch")
        if studio.project(db.id).model_version != version:
            studio.set_model_version(db.id, version)
        retired = _retire(db, studio, progress, version)
        save_upcoming(settings.data_dir, db.id, serving_order(db, paths, record), guard=db.write)
    report = PushReport(version, sent, len(wanted), accepted, tuple(retired))
    if sent or record.pushed != version:
        update_round(db, paths, record.number, pushed=version, pushed_at=utc_now())
        figures: dict[str, Any] = {"version": version, "tasks": len(wanted), "sent": sent}
        before = float(record.figures.get("push", {}).get("seconds", 0.0))
        figures["seconds"] = round(before + time.monotonic() - started, 3)
        finish_step(db, paths, record.number, "push", figures)
    progress.report("push", 1.0, f"{len(wanted)} tasks show {version}")
    return report


def _wanted(db: ProjectStore, tasks: TaskTable) -> list[int]:
    """Unfinished tasks the model could read, in order of id."""
    open_ids = set(open_task_ids(db))
    readable = tasks.task_id[tasks.error == ""]
    return sorted(int(task) for task in readable if int(task) in open_ids)


def serving_order(db: ProjectStore, paths: ProjectPaths, record: RoundRecord) -> list[tuple[int, str]]:
    """Unfinished tasks and their images in the order in which uncertainty sampling serves them."""
    tasks = read_tasks(paths.pool(record.model_version))
    score = {int(task): float(tasks.score[row]) for row, task in enumerate(tasks.task_id)}
    wanted = sorted(_wanted(db, tasks), key=lambda task: (score[task], task))
    images = task_images(db)
    return [(task, images[task]) for task in wanted]


def _rows(
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    record: RoundRecord,
    version: str,
    missing: Sequence[int],
    tasks: TaskTable,
    verdicts: VerdictTable,
) -> Iterator[PredictionRow]:
    folder = paths.pool(record.model_version)
    place = {int(task): row for row, task in enumerate(tasks.task_id)}
    index = read_index(folder)
    for start in range(0, len(missing), _READ_TASKS):
        part = missing[start : start + _READ_TASKS]
        pool = read_pool(folder, columns=_COLUMNS, task_ids=part, index=index)
        for task, rows in zip(part, _by_task(pool, part), strict=True):
            at = place[task]
            hw = (int(tasks.hw[at, 0]), int(tasks.hw[at, 1]))
            made = make_prediction(
                pool.take(rows),
                config,
                hw,
                verdicts,
                round_number=record.number,
                min_score=settings.push_min_score,
                score=float(tasks.score[at]),
            )
            problems = validate_result(made.result, config, made.score)
            if problems:
                raise BadInput(
                    problems[0],
                    field=f"prediction of task {task}",
                    hint="Nothing of this chunk was sent; has the label config changed since training?",
                )
            yield PredictionRow(task, made.result, made.score, version)


def _by_task(pool: PoolTable, tasks: Sequence[int]) -> Iterator[np.ndarray[Any, np.dtype[np.intp]]]:
    """Rows of each task, in the order of ``tasks``; one sort for all."""
    order = np.argsort(pool.task_id, kind="stable")
    ids = pool.task_id[order]
    for task in tasks:
        yield order[np.searchsorted(ids, task, "left") : np.searchsorted(ids, task, "right")]


def _chunks(settings: Settings, rows: Iterator[PredictionRow]) -> Iterator[list[PredictionRow]]:
    """Rows in chunks bounded by number and by bytes of JSON."""
    chunk: list[PredictionRow] = []
    size = 0
    for row in rows:
        weight = len(json.dumps(list(row.result), separators=(",", ":")))
        if chunk and (len(chunk) >= settings.push_rows or size + weight > settings.push_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += weight
    if chunk:
        yield chunk


def _retire(db: ProjectStore, studio: StudioClient, progress: Progress, version: str) -> list[str]:
    """Delete our older prediction versions; other people's predictions stay."""
    mine = version_prefix(db.id)
    old = [name for name in studio.prediction_versions(db.id) if name.startswith(mine) and name != version]
    for name in old:
        progress.at("push.retire")
        studio.delete_predictions(db.id, name)
    return old
