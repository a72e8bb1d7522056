"""An earlier model version that an admin wants to serve again: noted in a file, done by the next look.

The version becomes that of a new round, as with ``groundswell predict --push`` (see ``given_rounds``): it
looks at all open tasks, and its predictions and questions replace those of the round before. So everything
that follows a version (pool, verdicts, order, predictions in Label Studio) stays together. It serves until
the next training, which counts the tasks that changed since the last one.
"""

from __future__ import annotations

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, ModelError
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.given_rounds import find_model, snapshot_of_model
from sync.rounds.round_records import trained_round
from sync.rounds.train import start_adopted
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["begin_wanted_version", "forget_wanted_version", "note_wanted_version", "wanted_version"]


def wanted_version(paths: ProjectPaths) -> str:
    """Name of the version that is wanted; empty when none is, or when the note cannot be read."""
    try:
        found = read_json(paths.wanted_version)
    except (FileNotFoundError, ValueError):
        return ""
    return str(found.get("version", "")) if isinstance(found, dict) else ""


def note_wanted_version(paths: ProjectPaths, version: str) -> None:
    """Ask the worker for a version; replaces an earlier wish. Raises StorageError."""
    write_json(paths.wanted_version, {"version": version})


def forget_wanted_version(paths: ProjectPaths, version: str) -> None:
    """The wish for this version is fulfilled, or cannot be; a wish for another one stays."""
    if wanted_version(paths) in (version, ""):
        paths.wanted_version.unlink(missing_ok=True)


def begin_wanted_version(
    db: ProjectStore, config: LabelConfig, settings: Settings, paths: ProjectPaths
) -> tuple[RoundRecord | None, str]:
    """Begin the round of the version that is wanted; None when none is, and why it cannot begin.

    After a kill the same wish finds the round that was begun. A version that serves already, and one that is
    gone, end the wish.
    """
    version = wanted_version(paths)
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
    with db.write():  # a worker that lost its lease leaves the wish to its successor
        forget_wanted_version(paths, version)
    return record, problem
