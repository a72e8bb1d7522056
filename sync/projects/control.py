"""What an admin can tell a project that takes part: pause, resume, start a round, other options, leave.

For the command line, the dashboard and scripts. Every call may be repeated. The worker follows at its next
look, which these calls bring forward.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from typing import get_args

from sqlalchemy import delete, func, select

from ml_backend.artifacts.files import storage_errors
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, ModelError, StudioError
from sync.artifacts.manifest import forget_files
from sync.projects.init_project import BACKEND_TITLE, backend_address
from sync.projects.option_changes import OptionChange, set_options
from sync.rounds.project import registered
from sync.rounds.registration import project_ids, unregister_project
from sync.rounds.wanted_version import note_wanted_version
from sync.rounds.wishes import Pause, refuse_when_paused
from sync.settings import Settings
from sync.store.database import Store, utc_now
from sync.store.lease import hold_project
from sync.store.review_tables import OutboxRecord
from sync.store.schedule import wake_worker
from sync.store.tables import Base, ProjectRecord, TaskRecord
from sync.studio.protocol import StudioClient

__all__ = [
    "OptionChange",
    "Removed",
    "pause",
    "remove",
    "request_round",
    "resume",
    "serve_version",
    "set_options",
]


@dataclass(frozen=True, slots=True)
class Removed:
    """What ``remove`` did: how many connections of ours it took out of Label Studio, and why not all."""

    project_id: int
    title: str
    disconnected: int
    files_deleted: bool
    problem: str = ""


def pause(settings: Settings, store: Store, project_id: int, what: Pause = "asking") -> bool:
    """Stop asking new questions, or everything but reading (``all``); True when that is new.

    Open questions may still be answered, and answers still count. Raises BadInput when the project does not
    take part.
    """
    if what not in get_args(Pause) or not what:
        raise BadInput(f"{what!r} is no pause", field="pause", hint="One of asking, all")
    return _set_pause(settings, store, project_id, what)


def resume(settings: Settings, store: Store, project_id: int) -> bool:
    """End a pause; True when there was one. Raises BadInput when the project does not take part."""
    return _set_pause(settings, store, project_id, "")


def _set_pause(settings: Settings, store: Store, project_id: int, what: str) -> bool:
    registered(settings, store, project_id)
    with store.write() as session:
        record = session.get_one(ProjectRecord, project_id)
        changed = record.paused != what
        record.paused = what
    if changed:
        wake_worker(settings, store, project_id, "PAUSE" if what else "RESUME")
    return changed


def request_round(settings: Settings, store: Store, project_id: int) -> bool:
    """Ask for a round at the next look, however few tasks are new; True unless one was asked for already.

    Raises BadInput when the project does not take part, is paused altogether, or has nothing to train on.
    """
    db, _ = registered(settings, store, project_id)
    refuse_when_paused(db)
    with store.write() as session:
        finished = session.scalar(
            select(func.count()).where(TaskRecord.project_id == project_id, TaskRecord.finished.is_(True))
        )
        if not finished:
            raise BadInput(
                f"project {project_id} has no finished task to train on",
                field="project",
                hint="Label some pictures first",
            )
        record = session.get_one(ProjectRecord, project_id)
        is_new = record.round_wanted is None
        if is_new:
            record.round_wanted = utc_now()
    wake_worker(settings, store, project_id, "ROUND_WANTED")
    return is_new


def serve_version(settings: Settings, store: Store, project_id: int, version: str) -> bool:
    """Ask the worker to let a published version of the project serve again; False when it serves already.

    Asking for the one that serves takes an earlier wish back. See ``sync.rounds.wanted_version``.

    Raises BadInput when the project does not take part or is paused altogether, or has no such version.
    """
    db, _ = registered(settings, store, project_id, files=True)
    refuse_when_paused(db)
    registry = ModelRegistry(settings.data_dir)
    try:
        registry.info(project_id, version)
    except ModelError as error:
        raise BadInput(error.message, field="version", hint=error.hint) from error
    if registry.current(project_id) == version:
        note_wanted_version(db, "")
        return False
    note_wanted_version(db, version)
    wake_worker(settings, store, project_id, "VERSION_WANTED")
    return True


def remove(
    settings: Settings, store: Store, studio: StudioClient, project_id: int, *, files: bool = False
) -> Removed:
    """Let a project take part no more; take our backend and webhook out of it in Label Studio.

    Nothing else in Label Studio changes, and nothing there is deleted. Files and rows of the store stay, so
    that a project that takes part again goes on where it was; ``files`` deletes them, but for answers of the
    review page that wait to be written: those are written still, unless Label Studio has no such project.
    When Label Studio cannot be asked, ``problem`` says so and the rest is done.

    Raises BadInput when the project does not take part, or with ``files`` while a worker works on it.
    """
    known = project_ids(store) + project_ids(store, gone=True)
    if project_id not in known:
        raise BadInput(
            f"project {project_id} does not take part",
            field="project",
            hint=f"Those that do: {', '.join(map(str, sorted(known))) or 'none'}",
        )
    db, _ = registered(settings, store, project_id)
    disconnected, problem, is_there = 0, "", True
    with hold_project(store, settings, project_id) if files else nullcontext():
        try:
            disconnected = studio.disconnect(project_id, backend_address(settings), title=BACKEND_TITLE)
        except StudioError as error:
            is_there = error.status != 404  # with 404 the project is gone, and its connections with it
            problem = str(error) if is_there else ""
        if files:
            _delete_files(settings, store, project_id, keep_waiting=is_there)
        unregister_project(store, project_id)
    return Removed(project_id, db.title, disconnected, files, problem)


def _delete_files(settings: Settings, store: Store, project_id: int, *, keep_waiting: bool) -> None:
    """Delete the folder and all rows of a project, ``keep_waiting``: but for answers that are nowhere else.

    After a kill in between, the next call does the rest.
    """
    root = ProjectPaths(settings.data_dir, project_id).root
    with storage_errors(root):
        if root.exists():
            shutil.rmtree(root)
    with store.write() as session:
        forget_files(session, project_id)
        for table in Base.metadata.sorted_tables[::-1]:
            if "project_id" in table.columns:
                rows = delete(table).where(table.c.project_id == project_id)
                if keep_waiting and table is OutboxRecord.__table__:
                    rows = rows.where(OutboxRecord.written >= OutboxRecord.revision)
                session.execute(rows)
