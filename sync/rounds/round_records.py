"""Rounds: the row in the store, its files, and the steps that are finished.

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
from sqlalchemy.orm import Session

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from sync.store.database import utc_now
from sync.store.project_store import ProjectStore
from sync.store.round_state import STEPS
from sync.store.tables import RoundRecord

__all__ = [
    "begin_round",
    "current_round",
    "digest_of",
    "finish_step",
    "last_trained_for",
    "load_snapshot",
    "reload_round",
    "restore_rounds",
    "served_round",
    "trained_round",
    "update_round",
    "version_prefix",
]


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def version_prefix(project_id: int) -> str:
    """The beginning of the names of all model and prediction versions of a project."""
    return f"gs{project_id}-r"


def begin_round(
    db: ProjectStore, paths: ProjectPaths, number: int, snapshot: Mapping[str, Any]
) -> RoundRecord:
    """Start round ``number`` on ``snapshot`` (JSON-ready). The same round begun twice is the same round."""
    digest = digest_of(snapshot)
    write_json(paths.round(number) / "snapshot.json", snapshot, guard=db.guard)
    now = utc_now()
    with db.write() as session:
        record = session.get(RoundRecord, (db.id, number))
        if record is None:
            record = RoundRecord(project_id=db.id, number=number, started_at=now, figures={})
            session.add(record)
        record.digest = digest
        record.model_version = f"{version_prefix(db.id)}{number}-{digest[:10]}"
        record.step = "start"
        if record.failed:  # begun anew on another snapshot
            record.failed, record.figures = "", {}
        record.finished_tasks = len(snapshot["train"]) + len(snapshot["test"])
        record.split = int(snapshot.get("split", 1))
        record.origin = str(snapshot.get("origin", "trained"))
        record.updated_at = now
    _mirror(db, paths, number)
    return _get(db, number)


def current_round(db: ProjectStore) -> RoundRecord | None:
    """The newest round."""
    with db.read() as session:
        return session.scalar(
            select(RoundRecord)
            .where(RoundRecord.project_id == db.id)
            .order_by(RoundRecord.number.desc())
            .limit(1)
        )


def trained_round(db: ProjectStore) -> RoundRecord | None:
    """The newest round that has a model: its predictions are shown and reviewed."""
    query = select(RoundRecord).where(RoundRecord.project_id == db.id, RoundRecord.step != "start")
    with db.read() as session:
        return session.scalar(query.order_by(RoundRecord.number.desc()).limit(1))


def served_round(db: ProjectStore) -> RoundRecord | None:
    """The newest round whose model has looked at all tasks.

    While a newer model looks at them, its predictions stay and its review goes on.
    """
    query = select(RoundRecord).where(
        RoundRecord.project_id == db.id, RoundRecord.step.not_in(("start", "train"))
    )
    with db.read() as session:
        return session.scalar(query.order_by(RoundRecord.number.desc()).limit(1))


def last_trained_for(db: ProjectStore) -> RoundRecord | None:
    """The newest round that was begun to train on this project's tasks, whether or not it has a model yet."""
    query = select(RoundRecord).where(RoundRecord.project_id == db.id, RoundRecord.origin == "trained")
    with db.read() as session:
        return session.scalar(query.order_by(RoundRecord.number.desc()).limit(1))


def reload_round(db: ProjectStore, record: RoundRecord) -> RoundRecord:
    """Read the row of this round again."""
    with db.read() as session:
        return session.get_one(RoundRecord, (db.id, record.number))


def load_snapshot(paths: ProjectPaths, number: int) -> dict[str, Any]:
    """What round ``number`` trains on."""
    value: dict[str, Any] = read_json(paths.round(number) / "snapshot.json")
    return value


def finish_step(
    db: ProjectStore, paths: ProjectPaths, number: int, step: str, figures: Mapping[str, Any]
) -> RoundRecord:
    """Note that a step is done, with its figures. A round never goes back to an earlier step. A ``step`` that
    is no step of a round only leaves its figures.
    """
    with db.write() as session:
        record = _locked(session, db, number)
        if step in STEPS and STEPS.index(step) > STEPS.index(record.step):
            record.step = step
        record.figures = {**record.figures, step: {**record.figures.get(step, {}), **figures}}
        record.updated_at = utc_now()
    _mirror(db, paths, number)
    return _get(db, number)


def update_round(db: ProjectStore, paths: ProjectPaths, number: int, **columns: Any) -> RoundRecord:
    """Set columns of a round."""
    with db.write() as session:
        record = _locked(session, db, number)
        for name, value in columns.items():
            setattr(record, name, value)
        record.updated_at = utc_now()
    _mirror(db, paths, number)
    return _get(db, number)


def restore_rounds(db: ProjectStore, paths: ProjectPaths) -> int:
    """Fill a store that was dropped with the rounds found on disk; returns how many.

    Fields that a newer version added are ignored.
    """
    found = 0
    columns = {column.name for column in RoundRecord.__table__.columns}
    for path in sorted(paths.rounds.glob("*/round.json")):
        row = {name: value for name, value in read_json(path).items() if name in columns}
        for name in ("started_at", "updated_at", "pushed_at"):
            row[name] = None if row[name] is None else datetime.fromisoformat(row[name])
        with db.write() as session:
            session.merge(RoundRecord(**row))
        found += 1
    return found


def _get(db: ProjectStore, number: int) -> RoundRecord:
    with db.read() as session:
        return session.get_one(RoundRecord, (db.id, number))


def _locked(session: Session, db: ProjectStore, number: int) -> RoundRecord:
    """The row of a round, which nobody else changes until the transaction ends.

    The look takes a round over in the moment in which the training has finished its step.
    """
    return session.get_one(RoundRecord, (db.id, number), with_for_update=True)


def _mirror(db: ProjectStore, paths: ProjectPaths, number: int) -> None:
    with db.write() as session:  # the file is in place before anybody changes the row again
        record = _locked(session, db, number)
        row = {column.name: getattr(record, column.name) for column in RoundRecord.__table__.columns}
        for name, value in row.items():
            if isinstance(value, datetime):
                row[name] = value.isoformat()
        write_json(paths.round(number) / "round.json", row)
