"""``groundswell restore``: a backup becomes an installation again.

1. The whole archive is checked, and that the target is empty (or may be replaced). Nothing is written.
2. A note in ``.restore`` says which archive is being restored. While it is there nothing else opens the store
   (``Settings.database``).
3. Everything is unpacked beside its place and the store is brought up to date there. A store of Postgres is
   filled now.
4. What was there is set aside, and each part is renamed into its place, the store last. The note goes.

An error in step 3 ends the restore and leaves the target as it was, unless Postgres has begun to be filled.
A kill before step 4 leaves the target as it was, a kill in step 4 leaves the note: the same command goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final

from sqlalchemy import delete, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from ml_backend.artifacts.files import read_json, storage_errors, write_json
from ml_backend.errors import BadInput, StorageError
from sync.backup.archive import CheckedArchive, check_archive, unpack
from sync.backup.backup import alone, refuse_inside
from sync.backup.choice import LOST
from sync.backup.manifest import DATA, STORE_FILES, release
from sync.backup.store_copy import kind_of, run_postgres_tool, sqlite_file
from sync.local.up import read_state
from sync.settings import RESTORE_NOTE, Settings
from sync.store.database import Store, compare_everything, database_now
from sync.store.engine import open_engine
from sync.store.migrate import NEWEST, VERSION_TABLE, known_revisions
from sync.store.revisions import new_mark
from sync.store.tables import ArtifactRecord, Base, LeaseRecord, LeftOverRecord, ProjectRecord

__all__ = ["RestoreReport", "restore"]

_FOLDER: Final = Path(RESTORE_NOTE).parent
_ASIDE: Final = "before-restore-"
_MAY_STAY: Final = frozenset({"images", "embeddings", "checkpoints"})
"""caches whose files are named by their content"""
_FENCES: Final = 1_000_000
"""Far more than leases change hands between a backup and its restore."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored, and where what was there before lies now (empty: there was nothing)."""

    data_dir: str
    files: int
    projects: int
    made_at: str
    groundswell: str
    schema_from: str
    schema_now: str
    set_aside: str


@dataclass(frozen=True, slots=True)
class _Note:
    """Which archive is being restored, how far it came, and where to set aside what was there."""

    archive: str
    name: str
    aside: str
    moving: bool = False


def restore(settings: Settings, path: Path, *, overwrite: bool = False) -> RestoreReport:
    """Restore the archive ``path`` into the data directory and the store of ``settings``.

    Safe to kill and to repeat. With ``overwrite`` files that are there are set aside in a folder
    ``before-restore-…`` of the data directory; the tables of a store of Postgres are replaced.

    Raises BadInput when the archive is damaged, hostile or of a newer release, when the target is not empty,
    or when a worker is at work there; StorageError when there is no space or the database refuses.
    """
    refuse_inside(path, settings.data_dir, "archive")
    archive = check_archive(path)
    url = settings.database_address()
    _refuse_misfit(archive, url)
    data_dir = settings.data_dir
    with alone(data_dir):
        note = _read_note(data_dir)
        untouched = note is None  # no killed restore has moved or filled anything
        if note is None or (note.archive != archive.digest and overwrite):
            _refuse_occupied(data_dir, url, overwrite=overwrite, ttl_s=settings.lease_ttl_s)
            _refuse_full(archive, data_dir)
            note = _Note(archive.digest, path.name, _free_name(data_dir))
            _write_note(data_dir, note)
        elif note.archive != archive.digest:
            raise BadInput(
                f"a restore of another archive ({note.name}) into {data_dir} was not finished",
                field="archive",
                hint="Restore that one again, or give --overwrite to restore this one in its place",
            )
        ready = data_dir / _FOLDER / "ready"
        if not note.moving:
            with _undone_on_failure(data_dir if untouched else None):
                with storage_errors(ready):
                    shutil.rmtree(ready, ignore_errors=True)
                    ready.mkdir(parents=True)
                unpack(archive, ready)
                if archive.manifest.store == "sqlite":  # a file of ours until it is moved
                    _prepare_store(archive, url, ready)
            if archive.manifest.store != "sqlite":
                _prepare_store(archive, url, ready)
            os.sync()  # what is renamed below must be on the disk when the note says so
            note = replace(note, moving=True)
            _write_note(data_dir, note)
        with storage_errors(data_dir):
            _move(archive, url, ready, data_dir, data_dir / note.aside)
            (data_dir / RESTORE_NOTE).unlink()
            shutil.rmtree(data_dir / _FOLDER, ignore_errors=True)
    return _report(settings, archive, url, note)


@contextmanager
def _undone_on_failure(data_dir: Path | None) -> Iterator[None]:
    """An error (a full disk) takes the note away: nothing was changed, so what is there may work on."""
    try:
        yield
    except Exception:
        if data_dir is not None:
            shutil.rmtree(data_dir / _FOLDER, ignore_errors=True)
        raise


def _report(settings: Settings, archive: CheckedArchive, url: str, note: _Note) -> RestoreReport:
    store = Store(url)
    with store.read() as session:
        projects = len(session.scalars(select(ProjectRecord.id)).all())
    store.close()
    aside = settings.data_dir / note.aside
    manifest = archive.manifest
    return RestoreReport(
        data_dir=str(settings.data_dir), files=len(manifest.files), projects=projects,
        made_at=manifest.made_at, groundswell=manifest.groundswell, schema_from=manifest.schema_revision,
        schema_now=NEWEST, set_aside=str(aside) if aside.is_dir() else "",
    )  # fmt: skip


def _refuse_misfit(archive: CheckedArchive, url: str) -> None:
    """Raise BadInput for a backup of a newer release, or of a store of another kind than the target's."""
    manifest = archive.manifest
    if manifest.schema_revision and manifest.schema_revision not in known_revisions():
        raise BadInput(
            f"the backup was made by a newer release: Groundswell {manifest.groundswell} with schema "
            f"{manifest.schema_revision}. This is {release()} with schema {NEWEST}",
            field="archive",
            hint=f"Install Groundswell {manifest.groundswell} or a later one",
        )
    if kind_of(url) != manifest.store:
        raise BadInput(
            f"the backup holds a store of {manifest.store}, and GROUNDSWELL_DATABASE_URL names one of "
            f"{kind_of(url)}",
            field="archive",
            hint="Restore into a store of the same kind (empty GROUNDSWELL_DATABASE_URL: SQLite). To change "
            "the kind, start with an empty store and run `groundswell rebuild`",
        )


def _refuse_full(archive: CheckedArchive, data_dir: Path) -> None:
    free = shutil.disk_usage(data_dir).free
    if archive.bytes > free:
        raise StorageError(
            f"no space in {data_dir}: the backup needs {archive.bytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB "
            "are free",
            hint="Free some space or restore into another --data-dir",
        )


def _read_note(data_dir: Path) -> _Note | None:
    try:
        return _Note(**read_json(data_dir / RESTORE_NOTE))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{data_dir / RESTORE_NOTE} cannot be understood ({error})",
            hint="Delete it and restore again with --overwrite",
        ) from error


def _write_note(data_dir: Path, note: _Note) -> None:
    value = {"archive": note.archive, "name": note.name, "aside": note.aside, "moving": note.moving}
    write_json(data_dir / RESTORE_NOTE, value)


def _free_name(data_dir: Path) -> str:
    """A folder to set things aside in, which no earlier restore has used."""
    name = f"{_ASIDE}{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return next(
        free
        for number in count()
        if not (data_dir / (free := f"{name}-{number}" if number else name)).exists()
    )


def _occupants(data_dir: Path) -> list[Path]:
    """What lies in the data directory, but for our own folder and what earlier restores set aside."""
    own = (_FOLDER.name, ".backup", LOST)
    return sorted(p for p in data_dir.iterdir() if p.name not in own and not p.name.startswith(_ASIDE))


def _has_tables(url: str) -> bool:
    """Whether there is a store already."""
    if kind_of(url) == "sqlite":
        return sqlite_file(url).exists()
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            names = set(inspect(connection).get_table_names())
    finally:
        engine.dispose()
    return bool(names & {*Base.metadata.tables, VERSION_TABLE})


def _refuse_occupied(data_dir: Path, url: str, *, overwrite: bool, ttl_s: float) -> None:
    """Raise BadInput when something is there and may not be replaced, or when somebody works on it."""
    there, has_tables = _occupants(data_dir), _has_tables(url)
    if (there or has_tables) and not overwrite:
        names = ", ".join(path.name for path in there[:5])
        what = f"{data_dir} is not empty ({names})" if there else "the store has tables already"
        raise BadInput(
            what,
            field="data_dir",
            hint="Name an empty folder and an empty store, or give --overwrite: files are set aside, tables "
            "of Postgres are replaced",
        )
    state = read_state(data_dir)
    if state is not None and state.running:
        raise BadInput(
            f"Groundswell runs on {data_dir} (process {state.pid})", field="data_dir", hint="Stop it first"
        )
    if has_tables and (holder := _at_work(url, ttl_s)):
        raise BadInput(f"{holder} works on this store", field="data_dir", hint="Stop it first")


def _at_work(url: str, ttl_s: float) -> str:
    """Who holds a lease and gave a sign of life in time; empty when nobody does, or in a damaged store."""
    try:
        store = Store(url, upgrade=False)
    except DatabaseError:  # "file is not a database": that is what a restore is for
        return ""
    try:
        with store.read() as session:
            if not inspect(session.connection()).has_table(LeaseRecord.__tablename__):
                return ""
            since = database_now(session) - timedelta(seconds=ttl_s)
            rows = session.scalars(select(LeaseRecord).where(LeaseRecord.holder != ""))
            return next((f"worker {row.holder}" for row in rows if row.heartbeat_at > since), "")
    except DatabaseError:
        return ""
    finally:
        store.close()


def _prepare_store(archive: CheckedArchive, url: str, ready: Path) -> None:
    """Bring the store up to date, before it is in its place (SQLite) or in its database (Postgres)."""
    file = ready / STORE_FILES[archive.manifest.store]
    if archive.manifest.store == "sqlite":
        store = Store(f"sqlite:///{file}")
    else:
        _drop_tables(url)
        run_postgres_tool(
            "pg_restore", make_url(url),
            "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(file),
        )  # fmt: skip
        store = Store(url)
    try:
        with store.write() as session:
            for lease in session.scalars(select(LeaseRecord)):
                # the worker of before may still run somewhere: its number must never come round again
                lease.holder, lease.fence = "", lease.fence + _FENCES
            # The files of the archive are the ones that count, so the next worker publishes them. The objects
            # of before stay: they may belong to an installation that goes on.
            session.execute(delete(ArtifactRecord))
            session.execute(delete(LeftOverRecord))
            for project in session.scalars(select(ProjectRecord)):
                # also where none was published: what other machines hold is of another state
                project.artifacts_revision = new_mark()
            compare_everything(session)
    finally:
        store.close()


def _drop_tables(url: str) -> None:
    """Take our tables out of a database of Postgres."""
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            Base.metadata.drop_all(connection)
            connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
    finally:
        engine.dispose()


def _move(archive: CheckedArchive, url: str, ready: Path, data_dir: Path, aside: Path) -> None:
    """Set aside what is there and rename what is ready into its place; goes on where a killed one was."""
    fresh = ready / DATA
    if not (ready / "cleared").exists():
        for path in _occupants(data_dir):
            if path.name in _MAY_STAY and not (fresh / path.name).exists():
                continue
            aside.mkdir(exist_ok=True)
            os.replace(path, aside / path.name)
        for path in _store_elsewhere(archive, url, data_dir):
            os.replace(path, path.with_name(f"{path.name}.{aside.name}"))
        (ready / "cleared").touch()
    for path in sorted(fresh.iterdir()) if fresh.is_dir() else []:
        os.replace(path, data_dir / path.name)
    if archive.manifest.store == "sqlite":
        _move_store(ready / STORE_FILES["sqlite"], sqlite_file(url))


def _store_elsewhere(archive: CheckedArchive, url: str, data_dir: Path) -> Iterator[Path]:
    """Files of a store of SQLite that does not lie in the data directory."""
    if archive.manifest.store != "sqlite":
        return
    file = sqlite_file(url)
    if file.parent == data_dir.absolute():
        return
    for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
        if (path := file.with_name(name)).exists():
            yield path


def _move_store(source: Path, target: Path) -> None:
    if not source.exists():  # an earlier run came this far
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    beside = target.with_name(f".{target.name}.restoring")  # the store lies on another file system
    shutil.copyfile(source, beside)
    os.sync()
    os.replace(beside, target)
    source.unlink()
