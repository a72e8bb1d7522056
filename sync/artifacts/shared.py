"""A project's files on several machines: each has a copy, and the manifest in the database is in charge.

* ``publishing`` is the guard of a file that a job writes. The file is written to the object store first; then
  the pointer changes and the file is renamed, in one transaction under the job's lease. So the database never
  names what is not there, and a worker that lost its lease changes nothing.
* ``fetch`` makes the copy of this machine what the manifest says, in the order in which files came to be. So
  a name (``current``) appears after what it names, as on the machine that wrote it.
* ``publish`` does the rest at the end of a job: files that were written or deleted without a guard.

With a limit in bytes, large files of old rounds are not held here (``sync.artifacts.lean``). ``bring``
fetches those of a version that is used after all; they stay for a day.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from sqlalchemy.orm import Session

from ml_backend.artifacts.files import open_atomic, read_name, storage_errors
from ml_backend.errors import StorageError
from sync.artifacts.held import Held, HeldFile
from sync.artifacts.lean import spared
from sync.artifacts.manifest import Entry, intend, mark_of, point, read_manifest, withdraw
from sync.artifacts.objects import Objects, Written, file_digest
from sync.artifacts.scope import NAMES, Area, files_below, is_shared, lies_in, lies_inside
from sync.artifacts.staging import clear_fetched, remove_whole, staged_fetch
from sync.store.database import Store

__all__ = ["SharedFiles"]

_log = logging.getLogger(__name__)

_TRIES: Final = 5
_BROUGHT_S: Final = 24 * 3600.0
_THREADS: Final = 8

Write = Callable[[], AbstractContextManager[Session]]
"""A transaction of the store under the lease of the job, if it has one."""


@dataclass(frozen=True, slots=True)
class SharedFiles:
    """The shared files of one project on this machine.

    Parameters
    ----------
    store : the database with the manifest
    objects : the object store
    root : the project's folder on this machine
    project_id : number of the project
    limit : bytes of shared files that this machine should hold of the project at most; None: all of them
    """

    store: Store
    objects: Objects
    root: Path
    project_id: int
    limit: int | None = None
    _held: Held = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_held", Held(self.root))

    # reading

    def fetch(self) -> int:
        """Make the local copy what the manifest says; how many files came.

        Costs one small query if nothing changed. Files that the manifest does not know stay, and all files do
        where the database never knew any. Files that were
        changed here stay too, until ``publish``, but for names of what serves: those are decided in the
        database alone. Raises StorageError when an object cannot be read: then the local copy stays what it
        was.
        """
        if self._is_current(self._mark()):
            return 0
        with self._held.lock("fetch"):
            clear_fetched(self.root)  # of a fetch that was killed
            came = 0
            for _ in range(_TRIES):
                with self.store.read() as session:
                    mark = mark_of(session, self.project_id)
                    manifest, _ = self._wanted(session)
                if self._is_current(mark):
                    return came
                staged = self._download(self._missing(manifest))
                came += self._put_in_place(staged, mark)
            return came

    def bring(self, *folders: Path) -> int:
        """Fetch what lies below these folders and is not here because of the limit; how many files came.

        Raises StorageError when an object cannot be read; then nothing changed.
        """
        if self.limit is None:
            return 0
        names = [name for folder in folders if (name := self._name(folder)) is not None]
        with self._held.lock("fetch"):
            clear_fetched(self.root)
            with self.store.read() as session:
                manifest = self._manifest(session)
            below = {
                path: entry
                for path, entry in manifest.items()
                if any(PurePosixPath(path).is_relative_to(name) for name in names)
            }
            staged = self._download(self._missing(below))
            with self._held.lock("files"), storage_errors(self.root):
                with self.store.read() as session:
                    manifest = self._manifest(session)
                held = self._held.load()
                came = self._rename(manifest, staged, held)
                clear_fetched(self.root)
                self._held.save(held)
        return came

    def is_away(self, folder: Path) -> bool:
        """Whether files below this folder are not here because of the limit."""
        name = self._name(folder)
        if self.limit is None or name is None:
            return False
        with self.store.read() as session:
            _, away = self._wanted(session)
        held = self._held.load()
        return any(path not in held and PurePosixPath(path).is_relative_to(name) for path in away)

    def _wanted(self, session: Session) -> tuple[dict[str, Entry], frozenset[str]]:
        """The entries that this machine should hold, and the paths of those that it need not."""
        manifest = self._manifest(session)
        away = spared(session, self.project_id, manifest, self.limit)
        return {path: entry for path, entry in manifest.items() if path not in away}, away

    def _mark(self) -> str:
        with self.store.read() as session:
            return mark_of(session, self.project_id)

    def _manifest(self, session: Session) -> dict[str, Entry]:
        """The manifest. Raises StorageError when it names a place outside of the folder."""
        manifest = read_manifest(session, self.project_id)
        for path in manifest:
            if not lies_inside(PurePosixPath(path)):
                raise StorageError(
                    f"the database names {path!r} as a file of project {self.project_id}, which is no place "
                    "for one",
                    hint="Somebody changed the table artifacts; nothing was fetched",
                )
        return manifest

    def lacks(self, session: Session) -> int:
        """How many files that this machine should hold have another content there than here, or none here."""
        held = self._held.load()
        return sum(
            entry.path not in held or held[entry.path].key != entry.key
            for entry in self._wanted(session)[0].values()
        )

    def _is_current(self, mark: str) -> bool:
        """Whether the state of this mark was fetched, and no name was changed here since."""
        held = self._held.load()
        if self._marked(mark) != self._held.mark:
            return False
        return all(self._is_copy(path, held[path]) for path in NAMES if path in held)

    def _marked(self, mark: str) -> str:
        """What the note says when this state was fetched: with another limit it is fetched anew."""
        return mark if self.limit is None else f"{mark} up to {self.limit}"

    def _is_copy(self, path: str, held: HeldFile) -> bool:
        """Whether a file still looks as it did when it became a copy."""
        try:
            stat = (self.root / path).stat()
        except FileNotFoundError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (held.size, held.mtime_ns)

    def _missing(self, manifest: Mapping[str, Entry]) -> list[Entry]:
        """Entries that no local file is a copy of. A local file with the same content becomes one."""
        with self._held.lock("files"):
            held = self._held.load()
            missing = []
            for entry in manifest.values():
                if (
                    entry.path in held
                    and held[entry.path].key == entry.key
                    and (entry.path not in NAMES or self._is_copy(entry.path, held[entry.path]))
                ):
                    continue
                path = self.root / entry.path
                if path.is_file() and path.stat().st_size == entry.size and file_digest(path) == entry.digest:
                    stat = path.stat()
                    held[entry.path] = HeldFile(entry.key, stat.st_size, stat.st_mtime_ns)
                else:
                    missing.append(entry)
            if manifest:
                self._held.save(held)
        return missing

    def _download(self, entries: Sequence[Entry]) -> dict[str, tuple[Entry, Path]]:
        """The contents of the entries in files that are not in their places yet."""
        staged = {entry.path: (entry, staged_fetch(self.root)) for entry in entries}
        for _, file in staged.values():
            with storage_errors(file):
                file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as pool:
                for _ in pool.map(self._download_one, staged.values()):
                    pass
        except BaseException:
            clear_fetched(self.root)
            raise
        return staged

    def _download_one(self, wanted: tuple[Entry, Path]) -> None:
        entry, file = wanted
        self.objects.download(entry.key, file, digest=entry.digest)

    def _put_in_place(self, staged: Mapping[str, tuple[Entry, Path]], mark: str) -> int:
        """Rename what still is the content of its file; delete what the manifest does not name any more."""
        with self._held.lock("files"), storage_errors(self.root):
            with self.store.read() as session:
                manifest, away = self._wanted(session)
            held = self._held.load()
            came = self._rename(manifest, staged, held)
            clear_fetched(self.root)
            if not mark and not manifest:
                # nothing was ever published in this database: it is new, and the old one is lost
                held.clear()
            for path in [path for path in held if path not in manifest and path not in away]:
                self._remove(path)
                del held[path]
            leaving = self._may_leave(held, away)
            for path in leaving:
                del held[path]
            self._held.save(held)  # first: what is held and is not there counts as deleted by this machine
            self._leave(leaving)
            if all(path in held and held[path].key == entry.key for path, entry in manifest.items()):
                self._held.set_mark(self._marked(mark))
        return came

    def _rename(
        self,
        manifest: Mapping[str, Entry],
        staged: Mapping[str, tuple[Entry, Path]],
        held: dict[str, HeldFile],
    ) -> int:
        """Put what was fetched in its place, as far as the manifest still names it; how many files."""
        came = 0
        for entry in manifest.values():
            wanted, file = staged.get(entry.path, (None, None))
            if wanted == entry and file is not None:
                stat = _move(file, self.root / entry.path)
                held[entry.path] = HeldFile(entry.key, stat.st_size, stat.st_mtime_ns)
                came += 1
        return came

    def _may_leave(self, held: Mapping[str, HeldFile], away: frozenset[str]) -> list[str]:
        """Which of the files ``away`` can go: of folders where all are as published, none of the last day."""
        here = [path for path in held if path in away]
        fresh = time.time_ns() - int(_BROUGHT_S * 1e9)
        stay = {
            _folder(path)
            for path in here
            if held[path].mtime_ns > fresh or not self._is_copy(path, held[path])
        }
        for folder in {_folder(path) for path in here if path.startswith("pools/")} - stay:
            found = [name.as_posix() for name, _ in files_below(self.root, folder)]
            if (self.root / folder).is_symlink() or any(name not in held for name in found):
                stay.add(folder)  # something is not published yet, or somebody gave it a place of its own
        return [path for path in here if _folder(path) not in stay]

    def _leave(self, paths: Sequence[str]) -> None:
        """Remove local files; a pool as a whole, so that nobody takes a part of it for all of it."""
        for folder in sorted({_folder(path) for path in paths}):
            if folder.startswith("pools/"):
                remove_whole(self.root / folder)
        for path in paths:
            if not path.startswith("pools/"):
                self._remove(path)

    def _remove(self, path: str) -> None:
        file = self.root / path
        file.unlink(missing_ok=True)
        for folder in file.parents:
            if folder == self.root:
                return
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue  # somebody deleted it
            except OSError:
                return  # other files are in it, or it is a link

    # writing

    @contextmanager
    def publishing(self, target: Path, staged: Path, write: Write) -> Iterator[object]:
        """Guard a rename (see ``artifacts.files.Guard``) inside the transaction that makes it known to all.

        Raises what ``write`` raises (LeaseLost) and StorageError; then nothing has changed.
        """
        files = self._files_of(target, staged)
        if not files:
            with write() as session:
                yield session
            return
        uploaded = self._upload({**self._unknown_of_version(target, staged), **files})
        with self._held.lock("files"):
            with write() as session:
                point(session, self.project_id, [entry for entry, _ in uploaded])
                yield session
            self._hold(uploaded)

    @contextmanager
    def removing(self, target: Path, write: Write) -> Iterator[object]:
        """Guard the removal of a file or folder, in the transaction that makes it known to all."""
        name = self._name(target)
        if name is None or not is_shared(name):
            with write() as session:
                yield session
            return
        with self._held.lock("files"):
            held = self._held.load()
            gone = [path for path in held if path == name.as_posix() or path.startswith(f"{name}/")]
            with write() as session:
                entries = [Entry(path, held[path].key, "", 0) for path in gone]
                if self.limit is not None:
                    manifest = read_manifest(session, self.project_id)
                    away = spared(session, self.project_id, manifest, self.limit)
                    missing = [path for path in sorted(away) if path not in held]
                    entries += [manifest[path] for path in missing if path.startswith(f"{name}/")]
                withdraw(session, self.project_id, entries)
                yield session
            for path in gone:
                del held[path]
            if gone:
                self._held.save(held)

    def _files_of(self, target: Path, staged: Path) -> dict[str, Path]:
        """The shared files that the rename brings, by the paths that they get, oldest first."""
        name = self._name(target)
        if name is None or not is_shared(name):
            return {}
        if not staged.is_dir():
            return {name.as_posix(): staged}
        if target.exists():
            return {}  # an earlier run got this far: this folder is thrown away
        found = [
            (path.stat().st_mtime_ns, path)
            for path in sorted(staged.rglob("*"))
            if path.is_file() and is_shared(name / path.relative_to(staged).as_posix())
        ]
        found.sort(key=lambda item: item[0])  # what says that a folder is whole was written last
        return {(name / path.relative_to(staged).as_posix()).as_posix(): path for _, path in found}

    def _unknown_of_version(self, target: Path, staged: Path) -> dict[str, Path]:
        """Files of the version that a name is about to name, as far as the manifest lacks them, oldest first.

        There are some when a worker was killed after it had renamed the version into place and before the
        commit: the next one finds the version there and does not publish it.
        """
        name = self._name(target)
        folder = None if name is None else NAMES.get(name.as_posix())
        version = read_name(staged) if folder else None
        if not version:
            return {}
        with self.store.read() as session:
            known = read_manifest(session, self.project_id)
        found = {
            path.as_posix(): stat.st_mtime_ns
            for path, stat in files_below(self.root, f"{folder}/{version}")
            if path.as_posix() not in known
        }
        return {path: self.root / path for path in sorted(found, key=lambda path: (found[path], path))}

    def _name(self, target: Path) -> PurePosixPath | None:
        """A path relative to the folder; None when it lies elsewhere."""
        try:
            return PurePosixPath(target.relative_to(self.root).as_posix())
        except ValueError:
            return None

    def _upload(self, files: Mapping[str, Path]) -> list[tuple[Entry, Written]]:
        """New objects with the contents of local files, announced before."""
        keys = {path: self.objects.new_key(f"projects/{self.project_id}", path) for path in files}
        with self.store.write(shared=True) as session:
            intend(session, keys.values())

        def one(path: str) -> tuple[Entry, Written]:
            _make_durable(files[path])
            written = self.objects.upload(files[path], keys[path])
            return Entry(path, keys[path], written.digest, written.size), written

        if len(files) == 1:
            return [one(path) for path in files]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="publish") as pool:
            return list(pool.map(one, files))

    def _upload_what_is_there(self, files: dict[str, Path]) -> list[tuple[Entry, Written]]:
        """``_upload``; files that another job of this machine deletes meanwhile are left out."""
        while files:
            try:
                return self._upload(files)
            except StorageError:
                there = {path: file for path, file in files.items() if file.exists()}
                if len(there) == len(files):
                    raise
                files = there
        return []

    def _hold(self, uploaded: Sequence[tuple[Entry, Written]]) -> None:
        held = self._held.load()
        for entry, written in uploaded:
            held[entry.path] = HeldFile(entry.key, written.size, written.mtime_ns)
        self._held.save(held)

    def publish(self, area: Area, write: Write) -> int:
        """Make known what a job wrote and deleted without a guard; how many files that were.

        The caller holds the job's lease, and fetched when the job began. Raises what ``write`` raises and
        StorageError.
        """
        held = self._held.load()
        found = {path.as_posix(): stat for path, stat in files_below(self.root)}
        changed = {
            path: self.root / path
            for path, stat in found.items()
            if (path in held or lies_in(area, PurePosixPath(path)))
            and (
                path not in held or (stat.st_size, stat.st_mtime_ns) != (held[path].size, held[path].mtime_ns)
            )
        }
        gone = [Entry(path, file.key, "", 0) for path, file in held.items() if path not in found]
        if not changed and not gone:
            return 0
        uploaded = self._upload_what_is_there(changed)
        with self._held.lock("files"):
            now = self._held.load()
            # another job of this machine may have published some of them meanwhile
            uploaded = [each for each in uploaded if now.get(each[0].path) == held.get(each[0].path)]
            gone = [
                entry
                for entry in gone
                if entry.path in now
                and now[entry.path].key == entry.key
                and not (self.root / entry.path).exists()
            ]
            with write() as session:
                point(session, self.project_id, [entry for entry, _ in uploaded])
                withdraw(session, self.project_id, gone)
            for entry in gone:
                now.pop(entry.path, None)
            self._held.save(now)
            self._hold(uploaded)
        _log.info("project %s: %d files published, %d withdrawn", self.project_id, len(uploaded), len(gone))
        return len(uploaded) + len(gone)

    def publish_first(self, write: Write) -> int:
        """Publish all files of a project that no machine has published anything of; how many.

        A copy that another machine published in the same moment wins. Raises StorageError.
        """
        if self.is_published():
            return 0
        files = {path.as_posix(): self.root / path for path, _ in files_below(self.root)}
        if not files:
            return 0
        uploaded = self._upload({path: files[path] for path in sorted(files, key=self._turn)})
        with self._held.lock("files"):
            with write() as session:
                if read_manifest(session, self.project_id):
                    return 0
                point(session, self.project_id, [entry for entry, _ in uploaded])
            self._hold(uploaded)
        _log.info("project %s: all %d files published for the first time", self.project_id, len(uploaded))
        return len(uploaded)

    def _turn(self, path: str) -> tuple[bool, int, bool, str]:
        """Sorts files as they came to be; many of one time where they were copied or restored."""
        changed = (self.root / path).stat().st_mtime_ns
        return path in NAMES, changed, path.endswith("/manifest.json"), path

    def is_published(self) -> bool:
        """Whether the manifest names any file."""
        with self.store.read() as session:
            return bool(read_manifest(session, self.project_id))


def _move(source: Path, target: Path) -> os.stat_result:
    """Move a file to its place, which a link may have put on another disk; what the system says of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    stat = source.stat()
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open_atomic(target) as out, source.open("rb") as file:
            shutil.copyfileobj(file, out)
        return target.stat()
    return stat


def _folder(path: str) -> str:
    """The version that a file belongs to, as the first two parts of its path."""
    return "/".join(PurePosixPath(path).parts[:2])


def _make_durable(file: Path) -> None:
    """Have a local file on the disk before the note says that it is a copy.

    Else after a power cut an empty file looks like a change, and would be published.
    """
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return  # the upload says why
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
