"""Opening what machines share, where ``artifacts_url`` says that they do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from sqlalchemy import select

from ml_backend.artifacts.files import storage_errors, write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import GroundswellError, StorageError
from sync.artifacts.manifest import claim_left_over, forget_deleted
from sync.artifacts.objects import Objects, open_objects
from sync.artifacts.shared import SharedFiles
from sync.settings import Settings
from sync.store.database import Store
from sync.store.project_store import ProjectStore
from sync.store.tables import InstallationRecord, RoundRecord

__all__ = [
    "begin_sharing",
    "bring_version",
    "delete_left_over",
    "objects_of",
    "share_installation",
    "shared_files",
]

_log = logging.getLogger(__name__)
_ID: Final = "id"
_THREADS: Final = 8
_CLEAN_FOR_S: Final = 30.0


@lru_cache(maxsize=8)
def _objects(url: str) -> Objects:
    return open_objects(url)


def objects_of(settings: Settings) -> Objects | None:
    """The object store of the settings, None where there is none. Raises BadInput for an unusable address."""
    return _objects(settings.artifacts_url) if settings.artifacts_url else None


def shared_files(settings: Settings, store: Store, project_id: int) -> SharedFiles | None:
    """The files of a project that machines share, None where they share none."""
    objects = objects_of(settings)
    if objects is None:
        return None
    root = ProjectPaths(settings.data_dir, project_id).root
    return SharedFiles(store, objects, root, project_id, settings.artifacts_project_bytes)


def bring_version(settings: Settings, store: Store, project_id: int, version: str) -> None:
    """Bring the files of a model version here, where machines share them. Raises StorageError."""
    shared = shared_files(settings, store, project_id)
    if shared is not None:
        shared.fetch()
        shared.bring(ProjectPaths(settings.data_dir, project_id).model(version))


def begin_sharing(shared: SharedFiles, db: ProjectStore) -> None:
    """Fetch what is new; publish everything when nothing of the project was ever published.

    The caller holds a lease of the project. Raises StorageError, also when its trained versions are neither
    here nor there.
    """
    shared.fetch()
    if shared.is_published():
        return
    with db.read() as session:
        done = select(RoundRecord.model_version).where(
            RoundRecord.project_id == db.id, RoundRecord.pushed != ""
        )
        version = session.scalar(done.order_by(RoundRecord.number.desc()).limit(1))
    if version and not (shared.root / "models" / version / "manifest.json").exists():
        raise StorageError(
            f"{version} of project {db.id} is neither in {shared.root} nor in {shared.objects.url}",
            hint="Run the worker once where the data directory of this project is, with the same "
            "artifacts_url: it publishes the files",
        )
    if not shared.publish_first(db.write):
        shared.fetch()  # another machine may have been first: its files count


def share_installation(store: Store, data_dir: Path, own: Callable[[Path], str]) -> str:
    """Let the id of the installation be the same on all machines: that of the first one; returns it.

    ``own`` gives the id that this machine has. Raises StorageError, also when the data directory holds copies
    of another installation's files: those of this database would take their places.
    """
    with store.read() as session:
        known = session.get(InstallationRecord, _ID)
    if known is None:
        with store.write() as session:
            known = session.get(InstallationRecord, _ID)
            if known is None:
                known = InstallationRecord(name=_ID, value=own(data_dir))
                session.add(known)
    path = data_dir / "installation"
    with storage_errors(path):
        here = path.read_text().strip() if path.exists() else ""
        if here != known.value:
            if here and any((data_dir / "projects").glob("*/.held.json")):
                raise StorageError(
                    f"{data_dir} holds copies of files of another installation than the one in the database",
                    hint="Set database_url to the database that this data directory belongs to, or give this "
                    "machine an empty data_dir",
                )
            write_atomic(path, known.value.encode())
    return known.value


def delete_left_over(store: Store, objects: Objects, *, limit_s: float = _CLEAN_FOR_S) -> int:
    """Delete objects that no file had as its content for a day; how many.

    What is left after ``limit_s`` seconds, and what cannot be deleted, stays for the next time. Raises
    StorageError when the database is gone.
    """
    until = time.monotonic() + limit_s
    deleted, after = 0, ""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="delete") as pool:
        while time.monotonic() < until:
            with store.write(shared=True) as session:
                keys = claim_left_over(session, after)
            gone = _delete(objects, keys, pool, until)
            if gone:
                with store.write(shared=True) as session:
                    forget_deleted(session, gone)
            deleted += len(gone)
            if not gone:
                break  # nothing is left, or the store is away
            after = keys[-1]
    if deleted:
        _log.info("%d left over objects deleted", deleted)
    return deleted


def _delete(objects: Objects, keys: Sequence[str], pool: Executor, until: float) -> list[str]:
    """Delete objects, a few at once; those that were. Where a few in a row fail, the store counts as away."""
    gone: list[str] = []
    for at in range(0, len(keys), _THREADS):
        few = keys[at : at + _THREADS]
        errors = list(pool.map(partial(_error_of_deleting, objects), few))
        gone += [key for key, error in zip(few, errors, strict=True) if error is None]
        if failed := [error for error in errors if error is not None]:
            _log.warning("left over objects that stay for now: %d, the first: %s", len(failed), failed[0])
        if len(failed) == len(few) or time.monotonic() >= until:
            break
    return gone


def _error_of_deleting(objects: Objects, key: str) -> GroundswellError | None:
    try:
        objects.delete(key)
    except GroundswellError as error:
        return error
    return None
