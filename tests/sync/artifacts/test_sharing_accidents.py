"""What goes wrong around shared files (kills, deleted folders, links, odd names) ends there."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from ml_backend.artifacts.files import publish_dir, write_atomic
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.project_facts import load_facts
from ml_backend.errors import StorageError
from sync.artifacts.manifest import (
    Entry,
    claim_left_over,
    first_mark,
    forget_files,
    intend,
    point,
    read_manifest,
)
from sync.artifacts.opening import begin_sharing, delete_left_over, shared_files
from sync.artifacts.shared import SharedFiles
from sync.backup import backup as backup_module
from sync.backup.backup import backup
from sync.backup.restore import restore
from sync.projects.control import remove
from sync.rounds.project import open_project
from sync.rounds.registration import register_project, unregister_project
from sync.store.database import Store
from sync.store.tables import ArtifactRecord, LeftOverRecord, ProjectRecord, TaskRecord
from sync.web.artifacts_thread import Follower
from tests.sync.artifacts.test_sharing import KEY, Machine, MakeWorld, machines, own_store

__all__ = ["machines", "own_store"]

Two = tuple[Machine, Machine]


def _named(machine: Machine) -> list[str]:
    with machine.db.read() as session:
        return list(read_manifest(session, 1))


def _age(store: Store) -> None:
    """Let what is left over be so for more than a day."""
    with store.write() as session:
        for row in session.scalars(select(LeftOverRecord)):
            row.since -= timedelta(hours=25)


def test_a_folder_that_somebody_deleted_is_in_the_way_of_nothing(machines: Two) -> None:
    """Elsewhere a pool goes, and here its folder is gone already."""
    a, b = machines
    for name in ("pools/v1/tasks.parquet/part-0", "pools/v1/pool.parquet/part-0", "split.json"):
        write_atomic(a.root / name, b"x", guard=a.db.guard)
    b.shared.fetch()
    shutil.rmtree(b.root / "pools" / "v1" / "tasks.parquet")
    with a.db.guard(a.root / "pools" / "v1"):
        os.replace(a.root / "pools" / "v1", a.root / "pools" / ".gone")
    b.shared.fetch()
    assert b.files() == {"split.json": b"x"}
    assert not (b.root / "pools").exists()


@pytest.mark.parametrize(("area", "folder"), [("models", "models"), ("clicks", "clicks")])
def test_a_name_brings_the_version_that_a_killed_worker_had_renamed(
    machines: Two, area: Any, folder: str
) -> None:
    """Killed between the rename of the version and the commit: the next worker finds it there, so it only
    names it. The name must not lead to nothing on other machines."""
    a, b = machines
    write_atomic(a.root / "split.json", b"{}", guard=a.db.guard)
    registry = ModelRegistry(a.settings.data_dir, area=area)

    def build(staging: Path) -> dict[str, Any]:
        (staging / "weights").write_bytes(b"w")
        return {}

    registry.publish(1, "v1", build, make_current=False)  # what the rename leaves
    registry.publish(1, "v1", build, guard=a.db.guard)
    b.shared.fetch()
    assert {f"{folder}/v1/weights", f"{folder}/v1/manifest.json"} < b.files().keys()
    assert _named(a)[-1].endswith("current")
    registry.publish(1, "v2", build, guard=a.db.guard)
    assert len(_named(a)) == 6
    assert a.shared.publish("all", a.db.write) == 0


def test_of_objects_that_cannot_be_deleted_the_others_go(
    machines: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = machines
    for content in (b"1", b"22", b"333", b"4444"):
        write_atomic(a.root / "current", content, guard=a.db.guard)
    _age(a.db.store)
    with a.db.read() as session:
        first = min(session.scalars(select(LeftOverRecord.key)))
    delete = a.shared.objects.delete

    def refuse(key: str) -> None:
        if key == first:
            raise StorageError(f"{key} is held by a rule of the bucket")
        delete(key)

    with monkeypatch.context() as patched:
        patched.setattr(a.shared.objects, "delete", refuse)
        assert delete_left_over(a.db.store, a.shared.objects) == 2
        assert delete_left_over(a.db.store, a.shared.objects) == 0
    assert delete_left_over(a.db.store, a.shared.objects) == 1


def test_as_many_are_deleted_as_there_are(own_store: Store, machines: Two) -> None:
    """Looks leave thousands in an hour; they must not grow more and more."""
    with own_store.write() as session:
        intend(session, [f"projects/1/split.json.{number:016x}" for number in range(1203)])
    _age(own_store)
    objects = machines[0].shared.objects
    assert delete_left_over(own_store, objects, limit_s=0.0) == 0
    assert delete_left_over(own_store, objects) == 1203
    with own_store.read() as session:
        assert session.scalars(select(LeftOverRecord)).all() == []


def test_what_becomes_a_content_in_this_moment_is_not_deleted(store: Store) -> None:
    """An upload took longer than a day. The pointer to it is written, but not yet committed."""
    key = "projects/1/current.0"
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}))
        intend(session, [key])
    _age(store)
    claimed: list[str] = []

    def claim() -> None:
        with store.write(shared=True) as session:
            claimed.extend(claim_left_over(session))

    other = threading.Thread(target=claim)
    with store.write(shared=True) as session:
        point(session, 1, [Entry("current", key, "0" * 64, 2)])
        other.start()
        other.join(0.5)  # it passes this row over, or waits for the commit
    other.join(30)
    assert claimed == []


def test_a_project_that_takes_part_again_keeps_its_copy(machines: Two, tmp_path: Path) -> None:
    """Its row in the store is new, and its files are known still: nothing is uploaded once more."""
    a, b = machines
    for machine, name in ((a, "rounds/1/snapshot.json"), (b, "split.json")):
        write_atomic(machine.root / name, b"{}", guard=machine.db.guard)
        machine.shared.fetch()
    before = {path: entry.key for path, entry in _manifest(a).items()}
    with a.db.store.write() as session:
        session.delete(session.get_one(ProjectRecord, 1))
    with a.db.store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}))
    for machine in (a, b, Machine(tmp_path / "c", a.settings.artifacts_url, a.db.store)):
        begin_sharing(machine.shared, machine.db)
        assert machine.shared.publish("all", machine.db.write) == 0
        assert machine.shared.fetch() == 0
    assert {path: entry.key for path, entry in _manifest(a).items()} == before


def _manifest(machine: Machine) -> dict[str, Entry]:
    with machine.db.read() as session:
        return read_manifest(session, 1)


def test_after_a_restore_no_copy_of_another_state_is_published(machines: Two, tmp_path: Path) -> None:
    """The archive is of a time when no files were shared."""
    a, b = machines
    alone = a.settings.model_copy(
        update={"artifacts_url": "", "database_url": SecretStr(f"sqlite:///{tmp_path / 'store.db'}")}
    )
    write_atomic(a.root / "split.json", b"before")
    backup(alone, tmp_path / "archive.tar")
    begin_sharing(a.shared, a.db)
    write_atomic(a.root / "split.json", b"after", guard=a.db.guard)
    write_atomic(a.root / "rounds/7/snapshot.json", b"after", guard=a.db.guard)
    b.shared.fetch()

    url = SecretStr(f"sqlite:///{tmp_path / 'restored.db'}")
    target = alone.model_copy(update={"data_dir": tmp_path / "c", "database_url": url})
    restore(target, tmp_path / "archive.tar")
    store = Store(url.get_secret_value())
    c, old = (Machine(tmp_path / name, b.settings.artifacts_url, store) for name in "cb")
    begin_sharing(old.shared, old.db)  # it comes first
    begin_sharing(c.shared, c.db)
    begin_sharing(old.shared, old.db)
    old.shared.publish("all", old.db.write)
    assert old.files() == c.files() == {"split.json": b"before"}
    store.close()


def test_a_backup_holds_what_comes_while_it_begins(
    machines: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Store and files of an archive belong together, also where another machine published just now."""
    a, b = machines
    write_atomic(a.root / "split.json", b"{}", guard=a.db.guard)
    from_b = b.settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{tmp_path / 'store.db'}")})
    fetch, times = SharedFiles.fetch, []

    def meanwhile(shared: SharedFiles) -> int:
        came = fetch(shared)
        times.append(came)
        if len(times) == 1:
            with publish_dir(a.root / "models" / "v1", guard=a.db.guard) as staging:
                (staging / "manifest.json").write_bytes(b"{}")
        return came

    monkeypatch.setattr(SharedFiles, "fetch", meanwhile)
    found = backup(from_b, tmp_path / "archive.tar")
    assert (found.models, times) == (1, [1, 1])

    def always(shared: SharedFiles) -> int:
        came = fetch(shared)
        write_atomic(a.root / "split.json", os.urandom(4), guard=a.db.guard)
        return came

    monkeypatch.setattr(SharedFiles, "fetch", always)
    monkeypatch.setattr(backup_module, "_TRIES", 2)
    with pytest.raises(StorageError, match="would not be whole"):
        backup(from_b, tmp_path / "second.tar")
    assert not (tmp_path / "second.tar").exists()


def test_a_folder_on_another_disk_belongs_to_the_copy(
    machines: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``models`` is a link: its files are published, fetched and removed like the others."""
    a, b = machines
    for machine in machines:
        disk = tmp_path / f"disk of {machine.settings.data_dir.name}"
        disk.mkdir()
        machine.root.mkdir(parents=True)
        (machine.root / "models").symlink_to(disk)
    for name in ("models/v1/weights", "models/v1/manifest.json", "current"):
        write_atomic(a.root / name, b"v1")
    (a.root / "models/v1/all").symlink_to(a.root)  # in circles
    (a.root / "models/v1/nowhere").symlink_to(a.root / "nowhere")
    (a.root / "models/v1/itself").symlink_to("itself")
    begin_sharing(a.shared, a.db)
    assert _named(a) == ["models/v1/weights", "models/v1/manifest.json", "current"]
    replace = os.replace

    def other_disk(source: Path, target: Path) -> None:
        if ".fetch" in Path(source).parts and Path(target).parent != b.root:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("sync.artifacts.shared.os.replace", other_disk)
        assert b.shared.fetch() == 3
    assert (tmp_path / "disk of b" / "v1" / "weights").read_bytes() == b"v1"
    assert not (b.root / ".fetch").exists()
    assert a.shared.publish("all", a.db.write) == b.shared.publish("all", b.db.write) == 0
    with a.db.guard(a.root / "models" / "v1"):
        shutil.rmtree(a.root / "models" / "v1")
    b.shared.fetch()
    assert b.files() == {"current": b"v1"}
    assert list((tmp_path / "disk of b").iterdir()) == []
    assert (b.root / "models").is_symlink()


def test_who_was_not_the_first_goes_on_with_the_files_of_the_first(
    machines: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    for machine in machines:
        write_atomic(machine.root / "split.json", machine.settings.data_dir.name.encode())
    upload = a.shared.objects.upload

    def meanwhile(source: Path, key: str) -> Any:
        monkeypatch.undo()
        begin_sharing(b.shared, b.db)
        return upload(source, key)

    monkeypatch.setattr(a.shared.objects, "upload", meanwhile)
    begin_sharing(a.shared, a.db)
    assert a.shared.publish("all", a.db.write) == 0
    assert a.files() == b.files() == {"split.json": b"b"}


def test_names_that_cannot_be_shared_stay_and_harm_nobody(machines: Two) -> None:
    a, b = machines
    write_atomic(a.root / "rounds/1/snapshot.json", b"{}")
    long = "rounds/" + "/".join(["d" * 200] * 2)
    good = ["rounds/a b#?%+:*[\n'\"~.csv", f"{long}/{'e' * 91}", "rounds/ü"]
    bad = ["rounds/caf\udce9.txt", f"{long}/{'e' * 92}", f"{long}/{'ü' * 46}"]
    assert len(good[1]) == 500
    for name in (*good, *bad):
        (a.root / name).parent.mkdir(parents=True, exist_ok=True)
        (a.root / name).write_bytes(b"x")
    assert a.shared.publish("look", a.db.write) == 4
    b.shared.fetch()
    assert b.files().keys() == {"rounds/1/snapshot.json", *good}
    assert a.shared.publish("look", a.db.write) == 0


@pytest.mark.parametrize("path", ["../out", "/out", "rounds/../../../out", ".held.json", "rounds/.out"])
def test_a_path_that_leads_elsewhere_is_refused(machines: Two, tmp_path: Path, path: str) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"x", guard=a.db.guard)
    wanted = str(tmp_path / "out") if path == "/out" else path
    with a.db.store.write() as session:
        session.execute(update(ArtifactRecord).values(path=wanted))
    with pytest.raises(StorageError, match="which is no place"):
        b.shared.fetch()
    assert b.files() == {}
    assert not [found for found in tmp_path.rglob("out") if found.is_file()]


def test_copied_files_of_one_time_arrive_with_the_names_last(machines: Two) -> None:
    a, _ = machines
    model = ["models/v1/manifest.json", "models/v1/weights"]
    for name in ["clicks/current", "clicks/v1/report.json", "current", *model]:
        write_atomic(a.root / name, b"v1")
        os.utime(a.root / name, (1e9, 1e9))
    os.utime(a.root / "current", (9e8, 9e8))  # copied first
    begin_sharing(a.shared, a.db)
    assert _named(a) == [
        "clicks/v1/report.json", "models/v1/weights", "models/v1/manifest.json", "current", "clicks/current",
    ]  # fmt: skip


def test_a_full_disk_is_not_taken_for_the_object_store(
    machines: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"x", guard=a.db.guard)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("sync.artifacts.objects.os", SimpleNamespace(**{**vars(os), "fsync": full}))
        with pytest.raises(StorageError, match="no space left while writing") as caught:
            b.shared.fetch()
    assert str(b.root) in str(caught.value)
    assert not (b.root / ".fetch").exists()
    assert b.shared.fetch() == 1


@pytest.mark.parametrize("note", [".held.mark", ".held.json"])
def test_a_damaged_note_costs_time_only(machines: Two, note: str) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"x", guard=a.db.guard)
    b.shared.fetch()
    (b.root / note).write_bytes(b"\xff\xfe{")
    assert b.shared.fetch() == 0
    assert b.shared.publish("all", b.db.write) == 0
    assert b.files() == {"split.json": b"x"}


def test_files_that_were_deleted_for_good_come_back_from_no_copy(machines: Two, tmp_path: Path) -> None:
    """``project remove --files`` on one machine; then the project takes part again, seen from another."""
    a, b = machines
    write_atomic(a.root / "models/v1/weights", b"w", guard=a.db.guard)
    b.shared.fetch()
    with a.db.store.write() as session:
        forget_files(session, 1)
        session.delete(session.get_one(ProjectRecord, 1))
    with a.db.store.write() as session:
        assert first_mark(session, 2) == ""  # of another number: copies of a lost database count
        mark = first_mark(session, 1)
        session.add(
            ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}, artifacts_revision=mark)
        )
    begin_sharing(b.shared, b.db)
    assert b.files() == {}
    assert _named(b) == []


def test_a_project_that_leaves_and_comes_back_has_a_mark_of_its_own(make_world: MakeWorld) -> None:
    """A machine that looked before anything was published must not take it for that state."""
    world = make_world(2, artifacts_url="", signing_key=KEY)
    settings = world.settings.model_copy(update={"artifacts_url": str(world.folder / "objects")})
    project = world.project_id

    def mark() -> str:
        with world.store.read() as session:
            return session.get_one(ProjectRecord, project).artifacts_revision

    assert mark() == ""
    open_project(settings, world.store, world.studio, project)
    shared = shared_files(settings, world.store, project)
    assert shared is not None
    write_atomic(shared.root / "split.json", b"{}", guard=partial(shared.publishing, write=world.store.write))
    unregister_project(world.store, project)
    register_project(settings, world.store, world.studio, project)
    assert mark() != ""
    remove(settings, world.store, world.studio, project, files=True)
    register_project(settings, world.store, world.studio, project)
    assert mark() != ""


def test_an_old_copy_does_not_make_the_store_look_old(make_world: MakeWorld, tmp_path: Path) -> None:
    """The number belongs to a new project now. A machine that was off since holds files of the old one."""
    world = make_world(3, artifacts_url=str(tmp_path / "objects"), signing_key=KEY)
    worker = world.worker()
    worker.look(world.project_id)
    late = world.settings.model_copy(update={"data_dir": tmp_path / "late"})
    copy = shared_files(late, world.store, world.project_id)
    assert copy is not None
    assert copy.fetch() > 0
    row = world.studio._db["projects"][str(world.project_id)]
    row["created_at"] = datetime(2031, 1, 1, tzinfo=UTC).isoformat()
    worker.look(world.project_id)
    report = worker.look(world.project_id)
    assert report is not None
    assert report.error == ""
    with world.store.read() as session:
        before = read_manifest(session, world.project_id)
        tasks = len(session.scalars(select(TaskRecord)).all())
    assert (len(before) > 0, tasks) == (True, 3)
    register_project(late, world.store, world.studio, world.project_id)
    with world.store.read() as session:
        assert read_manifest(session, world.project_id) == before
        assert len(session.scalars(select(TaskRecord)).all()) == tasks
    assert load_facts(late.data_dir, world.project_id).key == world.open().db.key


def test_a_project_that_cannot_be_fetched_keeps_no_other_one_waiting(
    machines: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    with a.db.store.write() as session:
        session.add(ProjectRecord(id=2, key="2.0", title="q", label_config="", options={}))
    second = shared_files(a.settings, a.db.store, 2)
    assert second is not None
    write_atomic(a.root / "split.json", b"1", guard=a.db.guard)
    guard = partial(second.publishing, write=a.db.store.write)
    write_atomic(second.root / "split.json", b"2", guard=guard)
    fetch = SharedFiles.fetch

    def refused(shared: SharedFiles) -> int:
        if shared.project_id == 1:
            raise PermissionError(errno.EACCES, "not readable")
        return fetch(shared)

    follower = Follower(b.settings, b.db.store)
    with monkeypatch.context() as patched:
        patched.setattr(SharedFiles, "fetch", refused)
        assert not follower.step()
    assert (b.root.with_name("2") / "split.json").read_bytes() == b"2"
    assert follower.step()
    assert b.files() == {"split.json": b"1"}


def test_a_version_is_on_the_disk_before_its_note_says_so(
    machines: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file, which looks like a change and would be published."""
    a, _ = machines
    synced, fsync = set(), os.fsync

    def seen(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", seen)
    with publish_dir(a.root / "models" / "v1", guard=a.db.guard) as staging:
        (staging / "weights").write_bytes(b"w")
    assert (a.root / "models/v1/weights").stat().st_ino in synced


def test_thousands_of_files_keep_their_order_and_one_that_is_given_up_stops_all(store: Store) -> None:
    """The first sharing of a project: its rows are written in large pieces."""
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}))
    entries = [Entry(f"pools/v1/part-{n * 7919 % 2003}", f"key {n}", "0" * 64, n) for n in range(2003)]
    with store.write() as session:
        intend(session, [entry.key for entry in entries])
        session.get_one(LeftOverRecord, "key 1700").claimed = True
    with pytest.raises(StorageError, match="left over"), store.write() as session:
        point(session, 1, entries)
    with store.read() as session:
        assert read_manifest(session, 1) == {}
    with store.write() as session:
        session.get_one(LeftOverRecord, "key 1700").claimed = False
    with store.write() as session:
        point(session, 1, entries)
    with store.read() as session:
        assert list(read_manifest(session, 1).values()) == entries
        assert session.scalars(select(LeftOverRecord)).all() == []
