"""How far people agree with the predictions that they were shown, task by task.

Compared are the newest tasks of each person that a model had looked at before. The predictions shown then are
in the pool of the round that served at that time. Objects and predictions are the same by the rule of their
kind (for masks an IoU above 0.75). What was compared once is kept: neither side changes any more.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping, Sequence
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import select

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import read_index
from ml_backend.artifacts.pools import read_pool
from ml_backend.errors import GroundswellError
from ml_backend.kinds.base import LabelledMask
from ml_backend.label_studio.label_config import LabelConfig
from sync.dashboard.annotations import AnnotationLine
from sync.rounds.picture_truth import fixes_needed
from sync.rounds.region_rows import drawn_masks, fits, lacks_masks
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, RoundRecord

__all__ = ["Compared", "agreement"]

_log = logging.getLogger(__name__)
_TASKS_PER_PERSON = 50
_COLUMNS = ("key", "task_id", "label", "rle", "score", "quality")

Compared = tuple[int, int, int]
"""objects that the person has, predictions that were shown, pairs of these that are the same"""


def agreement(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    lines: Sequence[AnnotationLine],
    rounds: Sequence[RoundRecord],
    kept: MutableMapping[object, object],
) -> dict[int, Compared]:
    """Comparisons by number of the annotation. A pool that is gone or damaged leaves its tasks out."""
    found: dict[int, Compared] = {}
    todo: dict[str, list[AnnotationLine]] = {}
    for line in _newest(lines):
        version = _shown_at(rounds, line.created_at)
        before = kept.get(("agreement", line.id, line.updated_at, version))
        if isinstance(before, tuple):
            found[line.id] = before
        elif before is None and version:
            todo.setdefault(version, []).append(line)
    for version, mine in todo.items():
        try:
            fresh = _compare(db, config, settings, paths, version, mine)
        except GroundswellError as error:
            _log.warning("project %s: no agreement with %s: %s", db.id, version, error)
            continue
        for line in mine:
            kept["agreement", line.id, line.updated_at, version] = fresh.get(line.id, False)
        found |= fresh
    return found


def _newest(lines: Sequence[AnnotationLine]) -> list[AnnotationLine]:
    """The newest annotations of each person that can be compared."""
    found: list[AnnotationLine] = []
    count: dict[int, int] = {}
    for line in sorted(lines, key=lambda line: line.created_at, reverse=True):
        if line.was_cancelled or line.is_broken or count.get(line.user, 0) >= _TASKS_PER_PERSON:
            continue
        count[line.user] = count.get(line.user, 0) + 1
        found.append(line)
    return found


def _shown_at(rounds: Sequence[RoundRecord], moment: datetime) -> str:
    """The version whose predictions people saw at a moment; empty before the first."""
    version = ""
    for record in rounds:
        spent = sum(float(record.figures.get(step, {}).get("seconds", 0.0)) for step in ("train", "infer"))
        if "infer" in record.figures and record.started_at + timedelta(seconds=spent) <= moment:
            version = record.model_version
    return version


def _compare(
    db: ProjectStore,
    config: LabelConfig,
    settings: Settings,
    paths: ProjectPaths,
    version: str,
    lines: Sequence[AnnotationLine],
) -> dict[int, Compared]:
    index = read_index(paths.pool(version))
    query = select(AnnotationRecord.id, AnnotationRecord.task_id, AnnotationRecord.regions)
    with db.read() as session:
        rows = session.execute(query.where(AnnotationRecord.id.in_([line.id for line in lines]))).all()
    drawn: dict[int, Sequence[LabelledMask]] = {}
    annotation_of: dict[int, int] = {}
    for number, task, regions in rows:
        entry = index.entry(task)
        if entry is None or entry.error or lacks_masks(config.wanted, regions):
            continue
        if fits(regions, entry.hw):
            drawn[task], annotation_of[task] = drawn_masks(config.wanted, regions, entry.hw), number
    if not drawn:
        return {}
    table = read_pool(paths.pool(version), columns=_COLUMNS, task_ids=drawn, index=index)
    table = table.take(np.flatnonzero(np.isin(table.label.astype(str), config.labels)))
    fixes = fixes_needed(table, drawn, config, shown_from=settings.push_min_score)
    return {annotation_of[task]: (one.objects, one.shown, one.found) for task, one in fixes.items()}
