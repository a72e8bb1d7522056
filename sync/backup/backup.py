"""``groundswell backup``: one archive of store and data directory, while workers go on.

1. Under the writers' lock (0.2 ms a file): pin the state of the store, and give every file that belongs to it
   a second name (a hard link) in a scratch folder. Files are never changed in place, only replaced, so the
   second name keeps today's content.
2. Without the lock: copy the store, then the database of an embedded Label Studio and after it the files that
   it names, then write everything into the archive, under a temporary name until it is whole.

A kill leaves the scratch folder behind; the next backup removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Literal, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_backend.artifacts.files import open_atomic, storage_errors
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput, StorageError
from sync.artifacts.opening import shared_files
from sync.artifacts.shared import SharedFiles
from sync.backup.choice import LABEL_STUDIO, SECRETS, Models, Pools, files_below, links_below, needed_versions
from sync.backup.manifest import DATA, FORMAT, MANIFEST, STORE_FILES, FileEntry, Manifest, listed, release
from sync.backup.store_copy import copy_sqlite, kind_of, pinned
from sync.review.review_project import installation_id
from sync.settings import Settings
from sync.store.database import Store
from sync.store.migrate import NEWEST, revision_of
from sync.store.tables import ProjectRecord

__all__ = ["BackupReport", "alone", "backup", "default_name", "refuse_inside"]

_SCRATCH = ".backup"
_TRIES = 10
_STUDIO_LEFT_OUT = frozenset({"server.log", "export"})
_TarMode = Literal["w", "w:gz"]


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds: its file and size in bytes, how much of what, which members are secret, and which
    links of the data directory were not followed."""

    file: str
    bytes: int
    files: int
    schema_revision: str
    store: str
    projects: int
    models: int
    pools: int
    label_studio: bool
    secrets: tuple[str, ...]
    links: tuple[str, ...]


def default_name(moment: datetime) -> str:
    """Name of the archive where none is given."""
    return f"groundswell-{moment.astimezone(UTC):%Y%m%d-%H%M%S}.tar.gz"


def backup(
    settings: Settings,
    out: Path,
    *,
    models: Models = "all",
    pools: Pools = "needed",
    secrets: bool = True,
) -> BackupReport:
    """Write an archive that ``restore`` reads.

    Parameters
    ----------
    out : the archive, ``.tar`` or ``.tar.gz``, which must not be there yet; or a folder for one
    models : all versions, or those that serve, are worked on or were asked for (``needed``)
    pools : the same for the masks that the models found
    secrets : with passwords and keys, and with an embedded Label Studio, whose database holds such

    Raises
    ------
    BadInput
        The file is there, has another ending or lies in the data directory, or the store is of a kind that
        cannot be copied.
    StorageError
        No space, a database that cannot be read, a missing program of Postgres, another backup under way.
    """
    target = out / default_name(datetime.now(UTC)) if out.is_dir() else out
    mode = _mode(target)
    url, data_dir = settings.database(), settings.data_dir
    kind = kind_of(url)
    refuse_inside(target, data_dir, "out")
    with alone(data_dir), _scratch(data_dir) as scratch, ExitStack() as stack:
        installation_id(data_dir)  # made now if nobody asked anything yet: it must outlive this machine
        store = Store(url, upgrade=False)
        stack.callback(store.close)
        with _held_whole(settings, store, models, pools) as session:
            copy = stack.enter_context(pinned(url))
            needed = needed_versions(session, data_dir)
            wanted = files_below(data_dir, needed, models, pools)
            names = _link(data_dir, wanted if secrets else filter(_is_open, wanted), scratch / "data")
            schema = revision_of(session.connection())
        links = [*links_below(data_dir, needed, models, pools)]
        copy(scratch / "store")
        members = [(STORE_FILES[kind], scratch / "store")]
        members += [(f"{DATA}{name}", scratch / "data" / name) for name in names]
        private = [f"{DATA}{name}" for name in names if not _is_open(name)]
        studio = data_dir / LABEL_STUDIO
        if has_studio := secrets and studio.is_dir():
            databases = _copy_databases(studio, scratch / LABEL_STUDIO)
            members += [(f"{DATA}{LABEL_STUDIO}/{name}", path) for name, path in databases.items()]
            private += [f"{DATA}{LABEL_STUDIO}/{name}" for name in databases]
            members += _studio_files(studio, set(databases))
            links += [
                PurePosixPath(path.relative_to(data_dir)) for path in studio.rglob("*") if path.is_symlink()
            ]
        with open_atomic(target) as file:
            os.fchmod(file.fileno(), 0o600)  # names and mail addresses of people are in it, and the secrets
            with _new_tar(file, mode) as tar:
                entries = {listed(name): entry for name, path in members if (entry := _add(tar, name, path))}
                manifest = Manifest(
                    format=FORMAT, groundswell=release(), schema_revision=schema, store=kind,
                    made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    models=models, pools=pools, secrets=tuple(map(listed, private)), files=entries,
                )  # fmt: skip
                _add_bytes(tar, MANIFEST, manifest.model_dump_json(indent=1).encode())
    parts = [PurePosixPath(name).parts for name in entries]
    return BackupReport(
        file=str(target), bytes=target.stat().st_size, files=len(entries), schema_revision=schema, store=kind,
        projects=len({part[2] for part in parts if part[1] == "projects" and len(part) > 3}),
        models=len({part[2:5] for part in parts if part[3:4] == ("models",) and len(part) > 5}),
        pools=len({part[2:5] for part in parts if part[3:4] == ("pools",) and len(part) > 5}),
        label_studio=has_studio, secrets=tuple(private), links=tuple(listed(str(name)) for name in links),
    )  # fmt: skip


@contextmanager
def _held_whole(settings: Settings, store: Store, models: Models, pools: Pools) -> Iterator[Session]:
    """The writers' lock, taken when this machine has all files that the store names and the archive wants.

    Raises StorageError when other machines publish more again and again before the lock is ours.
    """
    for _ in range(_TRIES):
        projects = _fetch_shared(settings, store, models, pools)
        with store.write() as session:
            if not any(shared.lacks(session) for shared in projects):
                yield session
                return
    raise StorageError(
        "files of other machines came faster than they could be fetched, so the backup would not be whole",
        hint="Try again, or stop the workers meanwhile",
    )


def _fetch_shared(settings: Settings, store: Store, models: Models, pools: Pools) -> list[SharedFiles]:
    """Bring this machine's copy up to date where machines share files: an archive holds all of them.

    A store of an earlier release shares none.
    """
    if not settings.artifacts_url:
        return []
    with store.read() as session:
        if revision_of(session.connection()) != NEWEST:
            return []
        projects = list(session.scalars(select(ProjectRecord.id)))
    found = [shared_files(settings, store, project_id) for project_id in projects]
    known = [shared for shared in found if shared is not None]
    for shared in known:
        shared.fetch()
    with store.read() as session:
        needed = needed_versions(session, settings.data_dir)
    for shared in known:  # also what this machine does without
        paths = ProjectPaths(settings.data_dir, shared.project_id)
        names = sorted(needed.get(shared.project_id, ()))
        model_folders = [paths.models] if models == "all" else [paths.model(name) for name in names]
        pool_folders = [paths.pools] if pools == "all" else [paths.pool(name) for name in names]
        shared.bring(*model_folders, *pool_folders)
    return known


def _mode(target: Path) -> _TarMode:
    """How to write this file. Raises BadInput when it is there or has an ending that we do not write."""
    if target.exists():
        raise BadInput(
            f"{target} is there already", field="out", hint="Name a new file, or a folder: it gets a name"
        )
    if target.name.endswith((".tar.gz", ".tgz")):
        return "w:gz"
    if target.name.endswith(".tar"):
        return "w"
    raise BadInput(
        f"{target.name!r} must end in .tar or .tar.gz",
        field="out",
        hint="Large models hardly shrink: .tar is quicker. To write into a folder, make it first",
    )


def refuse_inside(archive: Path, data_dir: Path, field: str) -> None:
    """Raise BadInput for an archive in the data directory: the next backup would hold it, and a restore would
    set it aside while it is needed."""
    if archive.resolve().is_relative_to(data_dir.resolve()):
        raise BadInput(
            f"{archive} lies inside the data directory {data_dir}",
            field=field,
            hint="Keep backups elsewhere, best on another disk",
        )


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """No other backup or restore of this data directory runs meanwhile; the lock ends with the process."""
    with storage_errors(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(data_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"another backup or restore of {data_dir} is under way", field="data_dir", hint="Wait for it"
            ) from None
        yield
    finally:
        os.close(handle)


@contextmanager
def _scratch(data_dir: Path) -> Iterator[Path]:
    """An empty folder on the file system of the data directory; what a killed backup left goes first."""
    folder = data_dir / _SCRATCH
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.chmod(folder, 0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_open(name: PurePosixPath) -> bool:
    """Whether a file of the data directory holds no password and no key."""
    return str(name) not in SECRETS


def _link(data_dir: Path, names: Iterable[PurePosixPath], folder: Path) -> list[PurePosixPath]:
    """Give files a second name below ``folder``; those that are gone since they were listed are left out."""
    found = []
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(data_dir / name, target)
        except FileNotFoundError:
            continue
        except OSError:  # a file system without hard links
            shutil.copy2(data_dir / name, target)
        found.append(name)
    return found


def _copy_databases(studio: Path, folder: Path) -> dict[str, Path]:
    """Copies of Label Studio's databases, by name below its folder, taken while it runs."""
    folder.mkdir()
    found: dict[str, Path] = {}
    for path in sorted(studio.rglob("*")):
        if path.is_file() and not path.is_symlink() and _is_sqlite(path):
            target = folder / str(len(found))
            with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as reader:
                copy_sqlite(reader, target)
            found[path.relative_to(studio).as_posix()] = target
    return found


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _studio_files(studio: Path, databases: set[str]) -> list[tuple[str, Path]]:
    """Uploads and the like. Listed after the databases were copied, so all that these name is there."""
    beside = {f"{name}-{end}" for name in databases for end in ("wal", "shm", "journal")}
    found = []
    for path in sorted(studio.rglob("*")):
        name = path.relative_to(studio).as_posix()
        if name in databases or name in beside or name.split("/")[0] in _STUDIO_LEFT_OUT:
            continue
        if path.is_file() and not path.is_symlink():
            found.append((f"{DATA}{LABEL_STUDIO}/{name}", path))
    return found


def _new_tar(file: IO[bytes], mode: _TarMode) -> tarfile.TarFile:
    if mode == "w":
        return tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
    # level 1: weights and Parquet are compressed already, the store shrinks well at any level
    return tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT, compresslevel=1)


class _Hashed:
    """A file that is read through, and the SHA-256 of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data


def _add(tar: tarfile.TarFile, name: str, path: Path) -> FileEntry | None:
    """Put a file into the archive; None when it is gone (an upload that was deleted just now)."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        stat = os.fstat(file.fileno())
        info = _info(name, stat.st_size)
        info.mtime = int(stat.st_mtime)
        info.mode = 0o600 if PurePosixPath(name).name in SECRETS else 0o644
        hashed = _Hashed(file)
        tar.addfile(info, cast("IO[bytes]", hashed))
    return FileEntry(size=info.size, sha256=hashed.sha256.hexdigest())


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_info(name, len(data)), io.BytesIO(data))


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(datetime.now(UTC).timestamp())
    return info
