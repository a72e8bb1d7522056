"""Several machines, one project: what one publishes the others get, and a kill publishes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from ml_backend.artifacts.files import open_atomic, publish_dir, write_atomic
from ml_backend.artifacts.inbox import mark_dirty
from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pools import read_pool
from ml_backend.errors import LeaseLost, StorageError
from sync.artifacts.figures import shared_figures
from sync.artifacts.manifest import claim_left_over, read_manifest
from sync.artifacts.objects import file_digest, open_objects
from sync.artifacts.opening import begin_sharing, delete_left_over, share_installation, shared_files
from sync.artifacts.shared import SharedFiles
from sync.backup.backup import backup
from sync.backup.restore import restore
from sync.report.doctor import _shared_files
from sync.report.status_figures import status
from sync.report.status_lines import status_lines
from sync.review.review_project import installation_id
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import project_lease
from sync.store.project_store import ProjectStore
from sync.store.schedule import Schedule
from sync.store.tables import JobRecord, LeaseRecord, LeftOverRecord, ProjectRecord
from sync.web.artifacts_thread import Follower
from sync.worker.loop import Worker
from tests.sync.conftest import World

KEY = "k" * 32
MakeWorld = Callable[..., World]


class Machine:
    """One machine's view of project 1."""

    def __init__(self, folder: Path, url: str, store: Store) -> None:
        self.settings = Settings(data_dir=folder, artifacts_url=url, signing_key=KEY, heartbeat_s=5.0)
        shared = shared_files(self.settings, store, 1)
        assert shared is not None
        self.shared: SharedFiles = shared
        self.root = shared.root
        self.db = ProjectStore(1, "1.0", "p", store, shared=shared)

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}))
    yield store
    store.close()


@pytest.fixture
def machines(tmp_path: Path, own_store: Store) -> tuple[Machine, Machine]:
    url = str(tmp_path / "objects")
    return Machine(tmp_path / "a", url, own_store), Machine(tmp_path / "b", url, own_store)


def _objects(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


def test_files_and_folders_arrive_in_the_order_of_their_making(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    with publish_dir(a.root / "models" / "v1", guard=a.db.guard) as staging:
        (staging / "weights").write_bytes(b"w" * 100)
        (staging / "manifest.json").write_bytes(b"{}")
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    write_atomic(a.root / "progress.json", b"{}", guard=a.db.guard)  # of this machine alone
    with a.db.read() as session:
        assert list(read_manifest(session, 1)) == ["models/v1/weights", "models/v1/manifest.json", "current"]
    came, replace = [], os.replace

    def seen(source: Path, target: Path) -> None:
        came.append(target.name)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("sync.artifacts.shared.os.replace", seen)
        assert b.shared.fetch() == 3
    assert [name for name in came if not name.startswith(".")] == ["weights", "manifest.json", "current"]
    assert b.files() == {"current": b"v1", "models/v1/manifest.json": b"{}", "models/v1/weights": b"w" * 100}
    assert b.shared.fetch() == 0
    write_atomic(b.root / "current", b"v2", guard=b.db.guard)
    assert a.shared.fetch() == 1
    assert (a.root / "current").read_bytes() == b"v2"


def test_what_is_removed_goes_everywhere(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    for name in ("pools/v1/tasks.parquet/part-0", "pools/v1/pool.parquet/part-0", "clicks/current"):
        write_atomic(a.root / name, b"x", guard=a.db.guard)
    b.shared.fetch()
    with a.db.guard(a.root / "pools" / "v1"):
        os.replace(a.root / "pools" / "v1", a.root / "pools" / ".gone")
    b.shared.fetch()
    assert b.files() == {"clicks/current": b"x"}
    assert not (b.root / "pools").exists()


def test_the_end_of_a_job_publishes_what_had_no_guard(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    write_atomic(a.root / "rounds/1/snapshot.json", b"old", guard=a.db.guard)
    write_atomic(a.root / "rounds/1/tree-0.npz", b"tree", guard=a.db.guard)
    write_atomic(a.root / "rounds/1/snapshot.json", b"new one")
    write_atomic(a.root / "rounds/1/round.json", b"{}")
    write_atomic(a.root / "history.csv", b"of the training, which publishes it itself")
    (a.root / "rounds/1/tree-0.npz").unlink()
    assert a.shared.publish("look", a.db.write) == 3
    assert a.shared.publish("look", a.db.write) == 0
    b.shared.fetch()
    assert b.files() == {"rounds/1/snapshot.json": b"new one", "rounds/1/round.json": b"{}"}
    assert a.shared.publish("training", a.db.write) == 1


def test_a_file_that_goes_while_it_is_published_is_left_out(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job of this machine deletes it: the end of this one must not fail."""
    a, b = machines
    going, staying = a.root / "rounds/1/tree-0.npz", a.root / "rounds/1/round.json"
    for file in (going, staying):
        write_atomic(file, b"{}")
    upload = a.shared.objects.upload

    def while_another_job_deletes(file: Path, key: str) -> Any:
        going.unlink(missing_ok=True)
        return upload(file, key)

    with monkeypatch.context() as patched:
        patched.setattr(type(a.shared.objects), "upload", lambda _, *args: while_another_job_deletes(*args))
        assert a.shared.publish("look", a.db.write) == 1
    b.shared.fetch()
    assert b.files() == {"rounds/1/round.json": b"{}"}


def test_a_file_that_is_there_again_when_a_job_ends_is_not_withdrawn(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"v1", guard=a.db.guard)
    (a.root / "split.json").unlink()

    def meanwhile(self: SharedFiles, files: Any) -> list[Any]:
        (a.root / "split.json").write_bytes(b"v2")
        return []

    with monkeypatch.context() as patched:
        patched.setattr(SharedFiles, "_upload_what_is_there", meanwhile)
        a.shared.publish("look", a.db.write)
    b.shared.fetch()
    assert b.files() == {"split.json": b"v1"}


def test_looks_leave_click_networks_to_their_training(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    write_atomic(a.root / "clicks/click-1/click.json", b"half of it")
    a.shared.publish("look", a.db.write)
    a.shared.publish("training", a.db.write)
    b.shared.fetch()
    assert b.files() == {}


def test_a_lost_lease_publishes_nothing(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    a, b = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    first = project_lease(a.db.store, a.settings, 1, "first")
    assert first.acquire()
    late = ProjectStore(1, "1.0", "p", a.db.store, first, a.shared)
    with a.db.store.write() as session:
        row = session.get_one(LeaseRecord, "project/1")
        row.holder, row.fence = "second", row.fence + 1
    with pytest.raises(LeaseLost):
        write_atomic(a.root / "current", b"v2", guard=late.guard)
    assert a.files() == {"current": b"v1"}
    b.shared.fetch()
    assert b.files() == {"current": b"v1"}
    with a.db.read() as session:  # the object was written, and is noted as left over
        assert len(session.scalars(select(LeftOverRecord)).all()) == 1
    assert len(_objects(tmp_path)) == 2


def test_a_lost_lease_removes_nothing_and_its_end_publishes_nothing(
    machines: tuple[Machine, Machine],
) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"v1", guard=a.db.guard)
    b.shared.fetch()
    lease = project_lease(a.db.store, a.settings, 1, "first")
    assert lease.acquire()
    late = ProjectStore(1, "1.0", "p", a.db.store, lease, a.shared)
    with a.db.store.write() as session:
        row = session.get_one(LeaseRecord, "project/1")
        row.holder, row.fence = "second", row.fence + 1
    with pytest.raises(LeaseLost), late.guard(a.root / "split.json"):
        (a.root / "split.json").unlink()
    assert a.files() == {"split.json": b"v1"}
    (a.root / "split.json").write_bytes(b"late")
    with pytest.raises(LeaseLost):
        a.shared.publish("all", late.write)
    (a.root / "split.json").unlink()
    with pytest.raises(LeaseLost):
        a.shared.publish("all", late.write)
    b.shared.fetch()
    assert b.files() == {"split.json": b"v1"}


def test_a_file_deleted_here_stays_where_another_machine_replaced_it(
    machines: tuple[Machine, Machine],
) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"v1", guard=a.db.guard)
    b.shared.fetch()
    write_atomic(b.root / "split.json", b"v2", guard=b.db.guard)
    (a.root / "split.json").unlink()
    a.shared.publish("look", a.db.write)
    a.shared.fetch()
    assert a.files() == b.files() == {"split.json": b"v2"}


def test_what_changes_while_it_is_fetched_is_fetched_again(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"v1", guard=a.db.guard)
    download, calls = b.shared.objects.download, []

    def meanwhile(key: str, target: Path, *, digest: str) -> None:
        download(key, target, digest=digest)
        calls.append(key)
        if len(calls) == 1:
            write_atomic(a.root / "split.json", b"v2", guard=a.db.guard)

    with monkeypatch.context() as patched:
        patched.setattr(b.shared.objects, "download", meanwhile)
        b.shared.fetch()
    assert (len(calls), b.files()) == (2, {"split.json": b"v2"})


def test_the_end_of_a_job_does_not_undo_what_another_job_published(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    write_atomic(a.root / "split.json", b"v1", guard=a.db.guard)
    (a.root / "split.json").write_bytes(b"v2, of one job")
    upload = a.shared.objects.upload

    def meanwhile(source: Path, key: str) -> Any:
        written = upload(source, key)
        monkeypatch.undo()
        write_atomic(a.root / "split.json", b"v3 of the other", guard=a.db.guard)
        return written

    monkeypatch.setattr(a.shared.objects, "upload", meanwhile)
    a.shared.publish("look", a.db.write)
    b.shared.fetch()
    assert a.files() == b.files() == {"split.json": b"v3 of the other"}


def test_an_object_that_cannot_be_deleted_now_is_deleted_later(
    machines: tuple[Machine, Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = machines
    for content in (b"1", b"22", b"333"):
        write_atomic(a.root / "current", content, guard=a.db.guard)
    with a.db.store.write() as session:
        for row in session.scalars(select(LeftOverRecord)):
            row.since -= timedelta(hours=25)

    def refuse(key: str) -> None:
        raise StorageError(f"{key} cannot be deleted")

    with monkeypatch.context() as patched:
        patched.setattr(a.shared.objects, "delete", refuse)
        assert delete_left_over(a.db.store, a.shared.objects) == 0
    assert delete_left_over(a.db.store, a.shared.objects) == 2
    assert [path.read_bytes() for path in _objects(tmp_path)] == [b"333"]


def test_replaced_objects_are_deleted_after_a_day(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    a, b = machines
    objects = open_objects(str(tmp_path / "objects"))
    for content in (b"1", b"22", b"333"):
        write_atomic(a.root / "current", content, guard=a.db.guard)
    assert delete_left_over(a.db.store, objects) == 0
    with a.db.store.write() as session:
        for row in session.scalars(select(LeftOverRecord)):
            row.since -= timedelta(hours=25)
    assert delete_left_over(a.db.store, objects) == 2
    assert [path.read_bytes() for path in _objects(tmp_path)] == [b"333"]
    b.shared.fetch()
    assert b.files() == {"current": b"333"}


def test_an_object_that_was_given_up_becomes_no_content(machines: tuple[Machine, Machine]) -> None:
    """An upload took longer than a day: its object may be gone, so no pointer may name it."""
    a, _ = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    upload = a.shared.objects.upload

    def slow(source: Path, key: str) -> Any:
        found = upload(source, key)
        with a.db.store.write() as session:
            session.get_one(LeftOverRecord, key).since -= timedelta(hours=25)
        with a.db.store.write() as session:
            assert claim_left_over(session) == [key]  # a worker is about to delete it
        return found

    a.shared.objects.upload = slow  # type: ignore[method-assign]
    try:
        with pytest.raises(StorageError, match="left over"):
            write_atomic(a.root / "current", b"v2", guard=a.db.guard)
    finally:
        del a.shared.objects.upload
    assert a.files() == {"current": b"v1"}


def test_a_store_that_is_away_leaves_everything_as_it_was(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    a, b = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    b.shared.fetch()
    write_atomic(a.root / "rounds/1/snapshot.json", b"{}", guard=a.db.guard)
    write_atomic(a.root / "current", b"v2", guard=a.db.guard)
    (tmp_path / "objects").rename(tmp_path / "away")
    with pytest.raises(StorageError, match="cannot read"):
        b.shared.fetch()
    assert b.files() == {"current": b"v1"}
    (tmp_path / "objects").write_bytes(b"in the way")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(a.root / "current", b"v3", guard=a.db.guard)
    assert (a.root / "current").read_bytes() == b"v2"
    (tmp_path / "objects").unlink()
    (tmp_path / "away").rename(tmp_path / "objects")
    assert b.shared.fetch() == 2
    assert b.files() == {"current": b"v2", "rounds/1/snapshot.json": b"{}"}


def test_a_copy_whose_note_is_lost_is_not_fetched_again(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    write_atomic(a.root / "split.json", b"{}", guard=a.db.guard)
    b.shared.fetch()
    (b.root / ".held.json").unlink()
    (b.root / "split.json").write_bytes(b"[]")  # of the same length
    assert b.shared.fetch() == 1
    assert b.files() == {"current": b"v1", "split.json": b"{}"}


def test_one_id_for_all_machines(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    first, other = installation_id(a.settings.data_dir), installation_id(b.settings.data_dir)
    assert first != other
    for machine in machines:
        share_installation(machine.db.store, machine.settings.data_dir, installation_id)
        assert installation_id(machine.settings.data_dir) == first


KILLED = """
import os, signal, sys
from pathlib import Path
from ml_backend.artifacts.files import write_atomic
from sync.artifacts import shared
from sync.artifacts.opening import shared_files
from sync.settings import Settings
from sync.store.database import Store
from sync.store.project_store import ProjectStore

data, url, database = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
shared.point = die  # everything is uploaded, the pointer is next
store = Store(database)
files = shared_files(Settings(data_dir=data, artifacts_url=url, signing_key="k" * 32), store, 1)
write_atomic(files.root / "current", b"v2", guard=ProjectStore(1, "1.0", "p", store, shared=files).guard)
"""


def test_a_lost_database_takes_no_files_with_it(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """A new, empty database knows no file: the copy that is left is all there is, and is published anew."""
    a, b = machines
    share_installation(a.db.store, a.settings.data_dir, installation_id)
    share_installation(b.db.store, b.settings.data_dir, installation_id)
    with publish_dir(a.root / "models" / "v1", guard=a.db.guard) as staging:
        (staging / "manifest.json").write_bytes(b"{}")
    b.shared.fetch()
    files = b.files()
    fresh = Store(f"sqlite:///{tmp_path / 'fresh.db'}")
    with fresh.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}))
    share_installation(fresh, b.settings.data_dir, installation_id)
    again = Machine(b.settings.data_dir, b.settings.artifacts_url, fresh)
    begin_sharing(again.shared, again.db)
    assert again.files() == files
    c = Machine(tmp_path / "c", b.settings.artifacts_url, fresh)
    begin_sharing(c.shared, c.db)
    assert c.files() == files
    fresh.close()


def test_the_database_of_another_installation_is_refused(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    a, _ = machines
    share_installation(a.db.store, a.settings.data_dir, installation_id)
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    share_installation(other, tmp_path / "elsewhere", installation_id)
    before = (a.settings.data_dir / "installation").read_bytes()
    with pytest.raises(StorageError, match="of another installation"):
        share_installation(other, a.settings.data_dir, installation_id)
    assert (a.settings.data_dir / "installation").read_bytes() == before
    assert a.files() == {"current": b"v1"}
    other.close()


def test_a_kill_between_upload_and_pointer_leaves_the_old_state(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    a, b = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    arguments = [str(a.settings.data_dir), a.settings.artifacts_url, f"sqlite:///{tmp_path / 'store.db'}"]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(_objects(tmp_path)) == 2
    assert a.shared.fetch() == 0
    b.shared.fetch()
    assert (a.files(), b.files()) == ({"current": b"v1"}, {"current": b"v1"})
    with a.db.store.write() as session:
        for row in session.scalars(select(LeftOverRecord)):
            row.since -= timedelta(hours=25)
    assert delete_left_over(a.db.store, a.shared.objects) == 1
    write_atomic(b.root / "current", b"v3", guard=b.db.guard)
    assert a.shared.fetch() == 1


def _worker(world: World, data_dir: Path) -> tuple[Settings, Worker]:
    settings = world.settings.model_copy(update={"data_dir": data_dir})
    share_installation(world.store, data_dir, installation_id)  # as commands do when they open the store
    return settings, Worker(settings, world.store, world.studio)


def _state(settings: Settings, project_id: int, number: int) -> Mapping[str, Any]:
    """What people would see of a machine's copy: version, pool, verdicts, trees."""
    paths = ProjectPaths(settings.data_dir, project_id)
    version = ModelRegistry(settings.data_dir).current(project_id)
    assert version
    folder = paths.round(number)
    return {
        "version": version,
        "model": {p.name: file_digest(p) for p in sorted(paths.model(version).iterdir())},
        "pool": sorted(read_pool(paths.pool(version)).key),
        "trees": {p.name: file_digest(p) for p in sorted(folder.glob("tree-*.npz"))},
        "verdicts": file_digest(folder / "verdicts.parquet"),
    }


def test_another_machine_goes_on_with_the_round(make_world: MakeWorld, tmp_path: Path, s3_url: str) -> None:
    """A trains, infers and asks; B, with an empty folder, goes on with the same files and answers."""
    world = make_world(12, artifacts_url=s3_url, signing_key=KEY)
    world.label(*range(6))
    a, worker_a = _worker(world, tmp_path / "a")
    first = worker_a.look(world.project_id)
    assert first is not None
    assert first.error == ""
    assert first.round == 1
    assert first.pushed is not None
    sent = len(world.studio.predicted_tasks(world.project_id, first.pushed.version))
    before = _state(a, world.project_id, 1)

    b, worker_b = _worker(world, tmp_path / "b")
    second = worker_b.look(world.project_id)
    assert second is not None
    assert (second.error, second.round, second.trained) == ("", 1, "")
    assert _state(b, world.project_id, 1) == before
    assert second.pushed is None or second.pushed.sent == 0
    assert len(world.studio.predicted_tasks(world.project_id, first.pushed.version)) == sent

    assert world.answer_all() > 0
    report = worker_b.look(world.project_id)  # the review goes on there
    assert report is not None
    assert report.error == ""
    c, worker_c = _worker(world, tmp_path / "c")
    again = worker_c.look(world.project_id)
    assert again is not None
    assert again.error == ""
    after = _state(b, world.project_id, 1)
    assert after["verdicts"] != before["verdicts"]
    assert _state(c, world.project_id, 1) == after

    # a backend follows: it serves the current version, and hands webhooks on
    served = world.settings.model_copy(update={"data_dir": tmp_path / "served"})
    follower = Follower(served, world.store)
    assert follower.step()
    assert _state(served, world.project_id, 1) == after
    schedule = Schedule(world.store, world.settings, "w")
    schedule.fill()
    with world.store.write() as session:
        job = session.get_one(JobRecord, f"project/{world.project_id}")
        job.next_at = later = job.next_at + timedelta(hours=1)
    mark_dirty(served.data_dir, world.project_id, "ANNOTATION_CREATED")
    assert follower.step()
    with world.store.read() as session:
        called = session.get_one(JobRecord, f"project/{world.project_id}").next_at
        assert called is not None
        assert called < later


def test_a_project_of_before_is_published_by_the_machine_that_has_it(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = make_world(12, artifacts_url="")
    world.label(*range(6))
    looked = world.worker().look(world.project_id)
    assert looked is not None
    assert looked.pushed is not None
    shared = {"artifacts_url": str(tmp_path / "objects"), "data_dir": tmp_path / "empty"}
    empty = world.settings.model_copy(update=shared)
    refused = Worker(empty, world.store, world.studio).look(world.project_id)
    assert refused is not None
    assert "is neither in" in refused.error

    there = world.settings.model_copy(update={"artifacts_url": str(tmp_path / "objects")})
    published = Worker(there, world.store, world.studio).look(world.project_id)
    assert published is not None
    assert published.error == ""
    taken = Worker(empty, world.store, world.studio).look(world.project_id)
    assert taken is not None
    assert (taken.error, taken.trained) == ("", "")
    assert _state(empty, world.project_id, 1) == _state(there, world.project_id, 1)


def test_only_the_first_copy_is_published(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    for machine in machines:
        write_atomic(machine.root / "current", machine.settings.data_dir.name.encode())
    begin_sharing(a.shared, a.db)
    begin_sharing(b.shared, b.db)
    assert (b.root / "current").read_bytes() == b"a"


def test_of_two_first_copies_in_the_same_moment_one_counts(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machines
    for machine in machines:
        write_atomic(machine.root / "split.json", machine.settings.data_dir.name.encode())
    upload = a.shared.objects.upload

    def meanwhile(source: Path, key: str) -> Any:
        monkeypatch.undo()
        assert b.shared.publish_first(b.db.write) == 1
        return upload(source, key)

    monkeypatch.setattr(a.shared.objects, "upload", meanwhile)
    assert a.shared.publish_first(a.db.write) == 0
    a.shared.fetch()
    assert a.files() == b.files() == {"split.json": b"b"}


@contextmanager
def _failing() -> Iterator[None]:
    yield
    raise RuntimeError("the database went away at the commit")


def test_a_commit_that_fails_is_no_publication(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)

    def guard(target: Path | None = None, staged: Path | None = None) -> Any:
        @contextmanager
        def both() -> Iterator[None]:
            with a.db.guard(target, staged), _failing():
                yield

        return both()

    with pytest.raises(RuntimeError), open_atomic(a.root / "current", guard=guard) as file:
        file.write(b"v2")
    b.shared.fetch()
    assert b.files() == {"current": b"v1"}


def test_doctor_and_status_say_how_much_is_shared(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    a, b = machines
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    write_atomic(a.root / "split.json", b"{}", guard=a.db.guard)
    write_atomic(a.root / "current", b"v2", guard=a.db.guard)
    there, here = (shared_figures(machine.settings, machine.db.store) for machine in machines)
    assert there is not None
    assert here is not None
    assert (there.files, there.size_bytes, there.missing, there.left_over) == (2, 4, 0, 1)
    assert here.missing == 2
    lines = status_lines(status(b.settings, b.db.store))
    assert any("2 are not here yet" in line and b.settings.artifacts_url in line for line in lines)
    levels = [finding.level for finding in _shared_files(b.settings, b.db.store)]
    (tmp_path / "objects").rename(tmp_path / "away")
    (tmp_path / "objects").write_bytes(b"in the way")
    levels += [finding.level for finding in _shared_files(b.settings, b.db.store)]
    assert levels == ["ok", "bad"]


def test_a_restored_project_is_published_anew(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """An archive holds what all machines share; after a restore its files count, on every machine."""
    a, b = machines
    write_atomic(a.root / "project.json", b"{}", guard=a.db.guard)
    write_atomic(a.root / "split.json", b"before", guard=a.db.guard)
    from_b = b.settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{tmp_path / 'store.db'}")})
    backup(from_b, tmp_path / "archive.tar")
    assert b.files() == {"project.json": b"{}", "split.json": b"before"}
    write_atomic(a.root / "split.json", b"after", guard=a.db.guard)

    url = SecretStr(f"sqlite:///{tmp_path / 'restored.db'}")
    target = a.settings.model_copy(update={"data_dir": tmp_path / "c", "database_url": url})
    restore(target, tmp_path / "archive.tar")
    store = Store(url.get_secret_value())
    c = Machine(tmp_path / "c", a.settings.artifacts_url, store)
    begin_sharing(c.shared, c.db)
    old = Machine(tmp_path / "a", a.settings.artifacts_url, store)  # its copy is of the store of before
    old.shared.fetch()
    assert old.files()["split.json"] == b"before"
    store.close()


def test_on_both_databases(store: Store, tmp_path: Path) -> None:
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="p", label_config="", options={}))
    a, b = (Machine(tmp_path / name, str(tmp_path / "objects"), store) for name in "ab")
    lease = project_lease(store, a.settings, 1, "worker")
    with lease:
        assert lease.acquire()
        db = ProjectStore(1, "1.0", "p", store, lease, a.shared)
        for content in (b"v1", b"v2"):
            write_atomic(a.root / "current", content, guard=db.guard)
        write_atomic(a.root / "split.json", b"{}", guard=db.guard)
        write_atomic(a.root / "rounds/1/round.json", b"{}")
        with db.guard(a.root / "split.json"):
            (a.root / "split.json").unlink()
        assert a.shared.publish("look", db.write) == 1
    assert b.shared.fetch() == 2
    assert b.files() == a.files() == {"current": b"v2", "rounds/1/round.json": b"{}"}
    with store.write() as session:
        for row in session.scalars(select(LeftOverRecord)):
            row.since -= timedelta(hours=25)
    assert delete_left_over(store, a.shared.objects) == 2
    assert len(_objects(tmp_path)) == 2


@pytest.mark.parametrize("name", ["current", "clicks/current", "clicks/ranking"])
def test_a_name_that_was_never_published_decides_nothing(
    machines: tuple[Machine, Machine], tmp_path: Path, name: str
) -> None:
    """A is killed after it renamed the file and before the commit. Its own copy is not in charge, nor B's."""
    a, b = machines
    write_atomic(a.root / name, b"v1", guard=a.db.guard)
    b.shared.fetch()
    (a.root / name).write_bytes(b"v2")  # what the rename leaves
    assert a.shared.fetch() == 1
    assert (a.root / name).read_bytes() == b"v1"
    assert a.shared.fetch() == a.shared.publish("all", a.db.write) == b.shared.fetch() == 0
    (b.root / name).unlink()
    assert b.shared.fetch() == 1
    write_atomic(b.root / name, b"v3", guard=b.db.guard)
    (a.root / name).write_bytes(b"v4")
    begin_sharing(a.shared, a.db)  # as a worker does when it begins a job
    assert a.files() == b.files() == {name: b"v3"}


def test_what_a_job_changed_without_a_guard_stays_until_it_is_published(
    machines: tuple[Machine, Machine],
) -> None:
    """The object store was away at the end of a job: the next one publishes what it had written."""
    a, b = machines
    write_atomic(a.root / "rounds/1/snapshot.json", b"v1", guard=a.db.guard)
    (a.root / "rounds/1/snapshot.json").write_bytes(b"v2")
    begin_sharing(a.shared, a.db)
    assert a.shared.publish("look", a.db.write) == 1
    b.shared.fetch()
    assert b.files() == a.files() == {"rounds/1/snapshot.json": b"v2"}


def test_notices_and_progress_of_a_machine_stay_there(machines: tuple[Machine, Machine]) -> None:
    a, b = machines
    mark_dirty(a.settings.data_dir, 1, "ANNOTATION_CREATED")
    write_atomic(a.root / "wanted_version.json", b"{}")
    write_atomic(a.root / "current", b"v1", guard=a.db.guard)
    assert a.shared.publish("all", a.db.write) == 0
    b.shared.fetch()
    assert b.files() == {"current": b"v1"}
