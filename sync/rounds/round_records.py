"""Rounds: the row in the store, its files, and the steps it has behind it.

``rounds/<n>/snapshot.json`` holds exactly what the round trains on, written before anything else, so that a
worker that died goes on with the same labels and comes to the same model version. ``rounds/<n>/round.json``
mirrors the row, so that ``groundswell rebuild`` finds the rounds again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select

from ml_backend.artifacts.files import read_json, write_json
from sync.rounds.project import Project, latest_round
from sync.store.database import utc_now
from sync.store.tables import RoundRecord

__all__ = [
    "STEPS",
    "begin_round",
    "current_round",
    "digest_of",
    "finish_step",
    "has_finished",
    "load_snapshot",
    "reload_round",
    "restore_rounds",
    "trained_round",
    "update_round",
    "version_prefix",
]

STEPS = ("start", "train", "infer", "cluster", "review", "push")


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def version_prefix(project_id: int) -> str:
    """What all model and prediction versions of a project begin with."""
    return f"gs{project_id}-r"


def begin_round(project: Project, number: int, snapshot: Mapping[str, Any]) -> RoundRecord:
    """Start round ``number`` on ``snapshot`` (JSON-ready). The same round begun twice is the same round."""
    digest = digest_of(snapshot)
    write_json(project.paths.round(number) / "snapshot.json", snapshot)
    now = utc_now()
    with project.write() as session:
        record = session.get(RoundRecord, (project.id, number))
        if record is None:
            record = RoundRecord(project_id=project.id, number=number, started_at=now, figures={})
            session.add(record)
        record.digest = digest
        record.model_version = f"{version_prefix(project.id)}{number}-{digest[:10]}"
        record.step = "start"
        record.failed = ""
        record.finished_tasks = len(snapshot["train"]) + len(snapshot["test"])
        record.updated_at = now
    _mirror(project, number)
    return _get(project, number)


def current_round(project: Project) -> RoundRecord | None:
    """The newest round."""
    with project.read() as session:
        return latest_round(session, project.id)


def trained_round(project: Project) -> RoundRecord | None:
    """The newest round that has a model: the one that is shown and reviewed."""
    query = select(RoundRecord).where(RoundRecord.project_id == project.id, RoundRecord.step != "start")
    with project.read() as session:
        return session.scalar(query.order_by(RoundRecord.number.desc()).limit(1))


def reload_round(project: Project, record: RoundRecord) -> RoundRecord:
    """The row as it is now."""
    with project.read() as session:
        return session.get_one(RoundRecord, (project.id, record.number))


def load_snapshot(project: Project, number: int) -> dict[str, Any]:
    """What round ``number`` trains on."""
    value: dict[str, Any] = read_json(project.paths.round(number) / "snapshot.json")
    return value


def has_finished(record: RoundRecord, step: str) -> bool:
    """Whether the round has this step behind it."""
    return STEPS.index(record.step) >= STEPS.index(step)


def finish_step(project: Project, number: int, step: str, figures: Mapping[str, Any]) -> RoundRecord:
    """Note that a step is done (never going back) and what it counted; other names only leave figures."""
    with project.write() as session:
        record = session.get_one(RoundRecord, (project.id, number))
        if step in STEPS and STEPS.index(step) > STEPS.index(record.step):
            record.step = step
        record.figures = {**record.figures, step: {**record.figures.get(step, {}), **figures}}
        record.updated_at = utc_now()
    _mirror(project, number)
    return _get(project, number)


def update_round(project: Project, number: int, **columns: Any) -> RoundRecord:
    """Set columns of a round."""
    with project.write() as session:
        record = session.get_one(RoundRecord, (project.id, number))
        for name, value in columns.items():
            setattr(record, name, value)
        record.updated_at = utc_now()
    _mirror(project, number)
    return _get(project, number)


def restore_rounds(project: Project) -> int:
    """Rows of rounds from their mirrors on disk, for a store that was dropped; returns how many."""
    found = 0
    for path in sorted(project.paths.rounds.glob("*/round.json")):
        row = read_json(path)
        for name in ("started_at", "updated_at", "pushed_at"):
            row[name] = None if row[name] is None else datetime.fromisoformat(row[name])
        with project.write() as session:
            session.merge(RoundRecord(**row))
        found += 1
    return found


def _get(project: Project, number: int) -> RoundRecord:
    with project.read() as session:
        return session.get_one(RoundRecord, (project.id, number))


def _mirror(project: Project, number: int) -> None:
    with project.read() as session:
        record = session.scalars(
            select(RoundRecord).where(RoundRecord.project_id == project.id, RoundRecord.number == number)
        ).one()
    row = {column.name: getattr(record, column.name) for column in RoundRecord.__table__.columns}
    for name, value in row.items():
        if isinstance(value, datetime):
            row[name] = value.isoformat()
    write_json(project.paths.round(number) / "round.json", row)
