"""An earlier model version that an admin wants to serve again: noted in the store, done by the next look.

The version becomes that of a new round, as with ``groundswell predict --push`` (see ``given_rounds``): it
looks at all open tasks, and its predictions and questions replace those of the round before. So everything
that follows a version (pool, verdicts, order, predictions in Label Studio) stays together. It serves until
the next training, which counts the tasks that changed since the last one.
"""

from __future__ import annotations

from sqlalchemy import select

from ml_backend.artifacts.files import read_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, ModelError
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.given_rounds import find_model, snapshot_of_model
from sync.rounds.round_records import trained_round
from sync.rounds.train import start_adopted
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord, RoundRecord

__all__ = [
    "begin_wanted_version",
    "forget_wanted_version",
    "note_wanted_version",
    "wanted_version",
    "wish_in_file",
]


def wanted_version(db: ProjectStore) -> str:
    """Name of the version that is wanted; empty when none is."""
    with db.read() as session:
        query = select(ProjectRecord.version_wanted).where(ProjectRecord.id == db.id)
        return session.scalar(query) or ""


def note_wanted_version(db: ProjectStore, version: str) -> None:
    """Ask the worker for a version; replaces an earlier wish, and takes it back when empty."""
    with db.write() as session:
        session.get_one(ProjectRecord, db.id).version_wanted = version


def forget_wanted_version(db: ProjectStore, version: str) -> None:
    """The wish for this version is fulfilled, or cannot be; a wish for another one stays.

    Raises LeaseLost: a worker that lost its lease leaves the wish to its successor.
    """
    with db.write() as session:
        record = session.get_one(ProjectRecord, db.id)
        if record.version_wanted == version:
            record.version_wanted = ""


def wish_in_file(paths: ProjectPaths) -> str:
    """The wish that an earlier release noted in a file; empty when there is none or it cannot be read."""
    try:
        found = read_json(paths.wanted_version)
    except (FileNotFoundError, ValueError):
        return ""
    return str(found.get("version", "")) if isinstance(found, dict) else ""


def _take_over_file(db: ProjectStore, paths: ProjectPaths) -> None:
    """Move the wish of an earlier release into the store, unless somebody has asked for another one since."""
    if not paths.wanted_version.exists():
        return
    if (version := wish_in_file(paths)) and not wanted_version(db):
        note_wanted_version(db, version)
    paths.wanted_version.unlink(missing_ok=True)


def begin_wanted_version(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths
) -> tuple[RoundRecord | None, str]:
    """Begin the round of the version that is wanted; None when none is, and why it cannot begin.

    After a kill the same wish finds the round that was begun. A version that serves already, and one that is
    gone, end the wish.
    """
    _take_over_file(db, paths)
    version = wanted_version(db)
    if not version:
        return None, ""
    newest = trained_round(db)
    record, problem = None, ""
    if newest is None or newest.model_version != version:
        try:
            snapshot = snapshot_of_model(find_model(settings, version), db.id, {}, None)
            record = start_adopted(db, config, settings, paths, snapshot)
        except (BadInput, ModelError) as error:
            problem = str(error)
    forget_wanted_version(db, version)
    return record, problem
