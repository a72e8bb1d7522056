"""Restores: whole or not at all, after kills too; hostile and damaged archives change nothing."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import json
import os
import shutil
import signal
import sqlite3
import tarfile
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from ml_backend.errors import BadInput, LeaseLost, StorageError
from sync.backup import restore as module
from sync.backup.backup import backup
from sync.backup.figures import backup_lines, restore_lines
from sync.backup.restore import restore
from sync.settings import RESTORE_NOTE, Settings
from sync.store.database import Store, utc_now
from sync.store.lease import Lease
from sync.store.migrate import NEWEST
from sync.store.tables import LeaseRecord, ProjectRecord


@pytest.fixture
def source(tmp_path: Path, database: str) -> Settings:
    """An installation with one project, a file of it, a secret, and a lease that a worker held."""
    settings = Settings(data_dir=tmp_path / "old", database_url=database)
    store = Store(settings.database())
    with store.write() as session:
        session.add(
            ProjectRecord(id=7, key="7.0", title="cells", label_config="<View/>", watermark=utc_now())
        )
        session.add(LeaseRecord(name="project/7", holder="w", fence=5, heartbeat_at=utc_now()))
    store.close()
    (settings.data_dir / "projects/7").mkdir(parents=True)
    (settings.data_dir / "projects/7/project.json").write_text("{}")
    (settings.data_dir / "installation").write_text("a1")
    (settings.data_dir / "secrets.json").write_text("{}")
    return settings


@pytest.fixture
def archive(source: Settings, tmp_path: Path) -> Path:
    backup(source, tmp_path / "b.tar.gz")
    return tmp_path / "b.tar.gz"


@pytest.fixture
def target(tmp_path: Path, source: Settings, request: pytest.FixtureRequest) -> Settings:
    """Another folder with a store of the same kind, both empty."""
    url = ""
    if source.database().startswith("postgres"):
        url = request.getfixturevalue("postgres_server").new_database()
    return Settings(data_dir=tmp_path / "new", database_url=url)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("groundswell.db")
    }


def titles(settings: Settings) -> list[str]:
    store = Store(settings.database())
    try:
        with store.read() as session:
            return list(session.scalars(select(ProjectRecord.title)))
    finally:
        store.close()


def test_what_was_backed_up_is_there_again(source: Settings, archive: Path, target: Settings) -> None:
    done = restore(target, archive)
    assert (done.projects, done.schema_from, done.schema_now, done.set_aside) == (1, NEWEST, NEWEST, "")
    assert tree(target.data_dir) == tree(source.data_dir)
    assert titles(target) == ["cells"]
    assert (target.data_dir / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert not (target.data_dir / ".restore").exists()
    store = Store(target.database())
    with store.read() as session:
        assert session.get_one(ProjectRecord, 7).watermark is None  # the next look compares everything
    lease = Lease(store, "project/7", "another", ttl_s=600, heartbeat_s=0)
    assert lease.acquire()  # at once, though the worker of before gave a sign of life just now
    assert lease.fence.number > 1000  # a number that no worker of before can hold
    store.close()


def test_a_worker_whose_lease_is_younger_than_the_backup_writes_no_more(
    source: Settings, archive: Path, target: Settings
) -> None:
    """The backup knows nothing of its lease, so the next worker makes the row anew."""
    before = Store(source.database())
    first = Lease(before, "project/8", "of before", ttl_s=600, heartbeat_s=0)
    assert first.acquire()
    paused = first.fence
    before.close()
    restore(target, archive)
    later = utc_now() + timedelta(seconds=5)
    store = Store(target.database())
    assert Lease(store, "project/8", "another", ttl_s=600, heartbeat_s=0, now=lambda _: later).acquire()
    with pytest.raises(LeaseLost), store.write(paused):
        pytest.fail("it may not write")
    store.close()


def test_a_target_that_is_not_empty_is_refused_unless_told(archive: Path, target: Settings) -> None:
    restore(target, archive)
    mine = target.data_dir / "mine.txt"
    mine.write_text("precious")
    (target.data_dir / "images").mkdir()
    before = tree(target.data_dir)
    with pytest.raises(BadInput, match=r"is not empty.*--overwrite"):
        restore(target, archive)
    assert tree(target.data_dir) == before
    done = restore(target, archive, overwrite=True)
    assert Path(done.set_aside).parent == target.data_dir
    assert (Path(done.set_aside) / "mine.txt").read_text() == "precious"
    assert not mine.exists()
    assert (target.data_dir / "images").is_dir()  # a cache by content may stay
    assert titles(target) == ["cells"]
    again = restore(target, archive, overwrite=True)
    assert (Path(done.set_aside) / "mine.txt").exists()  # what was set aside before is not set aside again
    assert restore_lines(again)[0].startswith("restored into")


def test_a_store_with_tables_is_refused_and_a_busy_one_always(archive: Path, target: Settings) -> None:
    store = Store(target.database())
    lease = Lease(store, "project/9", "host:1:a", ttl_s=600, heartbeat_s=0)
    assert lease.acquire()
    with pytest.raises(BadInput, match=r"not empty|has tables"):
        restore(target, archive)
    with pytest.raises(BadInput, match="worker host:1:a works on this store"):
        restore(target, archive, overwrite=True)
    with store.write() as session:  # it was killed two minutes ago
        session.get_one(LeaseRecord, "project/9").heartbeat_at = utc_now() - timedelta(minutes=2)
    store.close()
    restore(target, archive, overwrite=True)
    assert titles(target) == ["cells"]


def test_a_damaged_store_is_replaced(archive: Path, target: Settings) -> None:
    if target.database().startswith("postgres"):
        pytest.skip("its files are not ours")
    target.data_dir.mkdir()
    (target.data_dir / "groundswell.db").write_bytes(b"no database at all" * 500)
    restore(target, archive, overwrite=True)
    assert titles(target) == ["cells"]


def test_a_store_elsewhere_is_set_aside_beside_itself(
    source: Settings, archive: Path, tmp_path: Path
) -> None:
    if source.database().startswith("postgres"):
        pytest.skip("it lies in no file")
    place = tmp_path / "db" / "mine.db"
    target = Settings(data_dir=tmp_path / "new", database_url=f"sqlite:///{place}")
    restore(target, archive)
    restore(target, archive, overwrite=True)
    assert titles(target) == ["cells"]
    assert len(list(place.parent.glob("mine.db.before-restore-*"))) == 1


def test_a_store_of_another_kind_is_refused(
    source: Settings, archive: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    other = "" if source.database().startswith("postgres") else request.getfixturevalue("postgres_url")
    with pytest.raises(BadInput, match="holds a store of"):
        restore(Settings(data_dir=tmp_path / "new", database_url=other), archive)
    assert not (tmp_path / "new").exists()


# hostile and damaged archives: the store is the same in all of them, so one kind is enough

sqlite_only = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def members(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(archive) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def write(path: Path, rows: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in rows:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return path


def changed(archive: Path, tmp_path: Path, **fields: Any) -> Path:
    """The archive with other fields in its manifest."""
    rows = members(archive)
    info, text = rows[-1]
    return write(
        tmp_path / "changed.tar", [*rows[:-1], (info, json.dumps(json.loads(text) | fields).encode())]
    )


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


HOSTILE = {
    "outside": member("data/../../outside"),
    "absolute": member("/tmp/outside"),
    "above": member("../outside"),
    "dot": member("data/./a"),
    "elsewhere": member("etc/passwd"),
    "hidden": member("data/.restore/note.json"),
    "second store": member("data/groundswell.db"),
    "link": member("data/link", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": member("data/hard", tarfile.LNKTYPE, "data/installation"),
    "device": member("data/null", tarfile.CHRTYPE),
    "pipe": member("data/pipe", tarfile.FIFOTYPE),
    "folder": member("data/folder", tarfile.DIRTYPE),
    "twice": member("data/installation"),
    "inside a file": member("data/installation/x"),
    "not in the manifest": member("data/more"),
}


@sqlite_only
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_refused(archive: Path, target: Settings, tmp_path: Path, what: str) -> None:
    bad = write(tmp_path / "bad.tar", [*members(archive), (HOSTILE[what], b"")])
    with pytest.raises(BadInput, match="cannot be restored"):
        restore(target, bad)
    assert not target.data_dir.exists()
    assert not (tmp_path / "outside").exists()


@sqlite_only
def test_a_file_that_is_a_folder_too_is_refused(archive: Path, target: Settings, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.tar", [*members(archive), (member("data/projects"), b"")])
    with pytest.raises(BadInput, match="both a file and a folder"):
        restore(target, bad)
    assert not target.data_dir.exists()


def test_an_archive_inside_the_data_directory_is_refused(
    source: Settings, archive: Path, target: Settings
) -> None:
    for out in (source.data_dir, source.data_dir / "old/../b.tar"):
        with pytest.raises(BadInput, match="lies inside the data directory"):
            backup(source, out)
    target.data_dir.mkdir()
    inside = Path(shutil.copy(archive, target.data_dir))
    with pytest.raises(BadInput, match="lies inside the data directory"):
        restore(target, inside, overwrite=True)
    assert [path.name for path in target.data_dir.iterdir()] == [archive.name]


@sqlite_only
def test_what_was_there_works_on_after_a_restore_without_space(
    source: Settings, archive: Path, target: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(target, archive)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sync.backup.archive.os.utime", full)
    with pytest.raises(StorageError, match=r"No space|no space"):
        restore(target, archive, overwrite=True)
    assert titles(target) == ["cells"]  # nothing was changed, and nothing refuses to open it
    monkeypatch.undo()
    # but where a killed restore has begun, the note stays until one has ended
    (target.data_dir / ".restore").mkdir()
    note = {"archive": "another", "name": "x.tar", "aside": "before-restore-1", "moving": True}
    (target.data_dir / RESTORE_NOTE).write_text(json.dumps(note))
    monkeypatch.setattr("sync.backup.archive.os.utime", full)
    with pytest.raises(StorageError):
        restore(target, archive, overwrite=True)
    assert (target.data_dir / RESTORE_NOTE).exists()


@sqlite_only
def test_files_of_any_name_come_back(source: Settings, target: Settings, tmp_path: Path) -> None:
    folder = os.fsencode(source.data_dir / "sample-set")
    os.mkdir(folder)
    odd = [
        b"caf\xe9.png",
        "café.png".encode(),
        b"a\\b.png",
        b"c..\\..png",
        b"line\nbreak.png",
        b" .png",
        b"x" * 255,
    ]
    for name in odd:
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(name)
    backup(source, tmp_path / "odd.tar")
    restore(target, tmp_path / "odd.tar")
    there = os.fsencode(target.data_dir / "sample-set")
    assert sorted(os.listdir(there)) == sorted(odd)
    assert all(Path(os.fsdecode(there + b"/" + name)).read_bytes() == name for name in odd)


@sqlite_only
def test_links_are_not_followed_and_the_report_names_them(source: Settings, tmp_path: Path) -> None:
    away = tmp_path / "large disk"
    (away / "v1").mkdir(parents=True)
    (away / "v1/weights.pt").write_text("w")
    (source.data_dir / "projects/7/models").symlink_to(away)
    (source.data_dir / "images").symlink_to(away)  # does not belong into a backup
    (source.data_dir / "label-studio").mkdir()
    (source.data_dir / "label-studio/media").symlink_to(away)
    done = backup(source, tmp_path / "links.tar")
    assert done.links == ("projects/7/models", "label-studio/media")
    assert any("NOT in it" in line and "projects/7/models" in line for line in backup_lines(done))


@sqlite_only
def test_lost_and_found_of_a_disk_is_left_alone(source: Settings, target: Settings, tmp_path: Path) -> None:
    for folder in (source.data_dir, target.data_dir):
        (folder / "lost+found").mkdir(parents=True)
        (folder / "lost+found/x").write_text("of the system")
    backup(source, tmp_path / "disk.tar")
    done = restore(target, tmp_path / "disk.tar")
    assert done.set_aside == ""
    assert (target.data_dir / "lost+found/x").exists()
    with tarfile.open(tmp_path / "disk.tar") as tar:
        assert not any("lost+found" in name for name in tar.getnames())


@sqlite_only
def test_damage_is_found_before_anything_is_written(archive: Path, target: Settings, tmp_path: Path) -> None:
    rows = members(archive)
    flipped = [(info, data[:-1] + b"!" if info.name == "data/installation" else data) for info, data in rows]
    cases = {
        "is not as it was written": write(tmp_path / "1.tar", flipped),
        "is missing": write(tmp_path / "2.tar", rows[1:]),
        "has no manifest": write(tmp_path / "3.tar", rows[:-1]),
        "cannot be understood": changed(archive, tmp_path, store="mysql"),
        "cannot be read": tmp_path / "4.tar.gz",
        "is not there": tmp_path / "none.tar",
        "is a folder": tmp_path,
    }
    whole = archive.read_bytes()
    cases["cannot be read"].write_bytes(whole[: len(whole) // 2])
    for message, path in cases.items():
        with pytest.raises(BadInput, match=message):
            restore(target, path)
    plain, refused = gzip.decompress(whole), 0
    for at in range(100, len(whole), len(whole) // 40):  # one byte anywhere behind the header of gzip
        broken = bytearray(whole)
        broken[at] ^= 0x55
        if _unpacked(bytes(broken)) == plain:
            continue  # it was a code that no byte uses: nothing is damaged
        (tmp_path / "5.tar.gz").write_bytes(broken)
        with pytest.raises(BadInput):
            restore(target, tmp_path / "5.tar.gz")
        refused += 1
    assert refused > 30
    assert not target.data_dir.exists()


@sqlite_only
def test_a_wrong_checksum_at_the_end_of_gzip_is_damage(
    archive: Path, target: Settings, tmp_path: Path
) -> None:
    """It lies behind the last member: whoever stops reading there never sees it."""
    whole = bytearray(archive.read_bytes())
    whole[-8] ^= 0x01  # the checksum of all bytes, then their number
    (tmp_path / "sum.tar.gz").write_bytes(whole)
    with pytest.raises(BadInput, match="cannot be read"):
        restore(target, tmp_path / "sum.tar.gz")
    assert not target.data_dir.exists()


@sqlite_only
def test_a_sparse_member_is_no_plain_file(archive: Path, target: Settings, tmp_path: Path) -> None:
    """A few bytes that would become a file of any size."""
    holes = tarfile.TarInfo("data/holes")
    holes.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**6)}
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in [*members(archive), (holes, b"x")]:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(tmp_path / "sparse.tar") as tar:
        assert tar.getmember("data/holes").issparse(), "it is what it should be"
    with pytest.raises(BadInput, match="is no plain file"):
        restore(target, tmp_path / "sparse.tar")
    assert not target.data_dir.exists()


def _unpacked(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return b""


@sqlite_only
def test_a_newer_release_is_named(archive: Path, target: Settings, tmp_path: Path) -> None:
    newer = changed(archive, tmp_path, schema_revision="0999", groundswell="9.1.0")
    with pytest.raises(BadInput, match=r"newer release: Groundswell 9\.1\.0 with schema 0999"):
        restore(target, newer)
    with pytest.raises(BadInput, match="written in form 2"):
        restore(target, changed(archive, tmp_path, format=2))
    assert not target.data_dir.exists()


@sqlite_only
def test_no_space(archive: Path, target: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.backup.restore.shutil.disk_usage", lambda path: _Usage)
    with pytest.raises(StorageError, match="no space in"):
        restore(target, archive)
    assert list(target.data_dir.iterdir()) == []


class _Usage:
    free = 10


def test_an_older_schema_is_brought_up_to_date(source: Settings, target: Settings, tmp_path: Path) -> None:
    store = Store(source.database())
    with store.write() as session:
        for name in ("jobs", "artifacts", "left_over_artifacts", "installation"):
            session.execute(text(f"DROP TABLE {name}"))
        for name in ("tasks_revision", "review_revision", "artifacts_revision", "version_wanted"):
            session.execute(text(f"ALTER TABLE projects DROP COLUMN {name}"))
        session.execute(text("ALTER TABLE annotations DROP COLUMN clicks_left"))
        session.execute(text("UPDATE groundswell_schema SET version_num = '0009'"))
    store.close()
    backup(source, tmp_path / "old.tar")
    done = restore(target, tmp_path / "old.tar")
    assert (done.schema_from, done.schema_now) == ("0009", NEWEST)
    assert any("brought up to date: 0009" in line for line in restore_lines(done))
    assert titles(target) == ["cells"]


def _killed(target: Settings, archive: Path, stop: int) -> bool:
    """Restore in a process that kills itself at its step number ``stop``; False when it ended before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _kill_self_at(stop)
            restore(target, archive, overwrite=True)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"it failed ({status})"
    return status != 0


def _kill_self_at(stop: int) -> None:
    """Count what changes files or tables, and die before the one with that number."""
    calls = itertools.count()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(calls) == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for name in ("replace", "utime", "sync"):
        setattr(os, name, counted(getattr(os, name)))
    for name in ("_prepare_store", "_drop_tables", "run_postgres_tool", "_write_note"):
        setattr(module, name, counted(getattr(module, name)))
    for name in ("unlink", "touch"):
        setattr(Path, name, counted(getattr(Path, name)))
    shutil.rmtree = counted(shutil.rmtree)


def test_killed_at_every_step_it_goes_on(archive: Path, target: Settings, source: Settings) -> None:
    """Each run is killed a step later than the one before and finished by the next; what was there stays."""
    step = 5 if source.database().startswith("postgres") else 2
    for stop in range(0, 60, step):
        target.data_dir.mkdir(exist_ok=True)
        mark = target.data_dir / f"mine-{stop}"
        mark.write_text("precious")
        if not _killed(target, archive, stop):
            break
        if (target.data_dir / RESTORE_NOTE).exists():
            with pytest.raises(BadInput, match="was not finished"):
                target.database()
            restore(target, archive)  # no --overwrite: it goes on
        else:  # nothing had happened yet, or all of it
            restore(target, archive, overwrite=True)
        assert titles(target) == ["cells"]
        assert not (target.data_dir / ".restore").exists()
        kept = [path for path in target.data_dir.glob("before-restore-*/mine-*") if path.name == mark.name]
        assert [path.read_text() for path in kept] == ["precious"]
        fresh = {name: data for name, data in tree(target.data_dir).items() if "before-restore" not in name}
        assert fresh == tree(source.data_dir)
    else:
        pytest.fail("no run came to its end: kill later")
    assert stop > 15


def test_another_archive_does_not_go_on_where_one_was_killed(
    archive: Path, target: Settings, source: Settings, tmp_path: Path
) -> None:
    assert _killed(target, archive, 6)
    (source.data_dir / "installation").write_text("b2")
    backup(source, tmp_path / "second.tar")
    with pytest.raises(BadInput, match="another archive"):
        restore(target, tmp_path / "second.tar")
    restore(target, tmp_path / "second.tar", overwrite=True)
    assert (target.data_dir / "installation").read_text() == "b2"
    assert titles(target) == ["cells"]


def test_the_lines_say_what_is_secret(source: Settings, tmp_path: Path) -> None:
    lines = "\n".join(backup_lines(backup(source, tmp_path / "x.tar")))
    assert "passwords and keys are in data/secrets.json" in lines
    assert "without Label Studio" in lines


def test_the_store_of_a_backup_is_one_file(archive: Path, tmp_path: Path, source: Settings) -> None:
    if source.database().startswith("postgres"):
        pytest.skip("a dump")
    with tarfile.open(archive) as tar:
        tar.extract("store/groundswell.db", tmp_path, filter="data")
    found = sqlite3.connect(tmp_path / "store/groundswell.db")
    assert found.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    found.close()
