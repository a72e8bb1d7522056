"""Store and leases: transactions, fencing, takeover, and what a rebuild drops."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DataError

from ml_backend.artifacts.files import publish_dir, read_json, write_json
from ml_backend.artifacts.pool_writer import PoolWriter
from ml_backend.errors import BadInput, LeaseLost, StorageError
from ml_backend.instances import Instances
from sync.rounds.registration import project_ids
from sync.store.database import Store, database_now, utc_now
from sync.store.lease import Lease
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, LeaseRecord, ProjectRecord, TaskRecord
from tests.postgres import PostgresServer


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self, session: object = None) -> datetime:
        return self.time

    def seconds(self) -> float:
        return self.time.timestamp()

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def _project(store: Store, project_id: int = 1) -> None:
    with store.write() as session:
        session.add(ProjectRecord(id=project_id, key=f"{project_id}.0", title="t", label_config="<View/>"))


def _task(task_id: int, updated_at: datetime) -> TaskRecord:
    return TaskRecord(id=task_id, project_id=1, data={}, image="x", updated_at=updated_at, finished=False)


def test_times_come_back_aware_and_in_utc(store: Store) -> None:
    moment = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with store.write() as session:
        session.add(_task(1, moment))
    with store.read() as session:
        assert session.get_one(TaskRecord, 1).updated_at == moment
        assert session.get_one(TaskRecord, 1).updated_at.tzinfo == UTC


def test_a_database_of_postgres_may_have_any_encoding(postgres_server: PostgresServer) -> None:
    """One that was made without a locale has SQL_ASCII, and gives its driver bytes unless asked for text."""
    store = Store(postgres_server.new_database(encoding="SQL_ASCII"))
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="Käfer 甲虫", label_config="<View/>"))
    with store.read() as session:
        assert session.get_one(ProjectRecord, 1).title == "Käfer 甲虫"
    store.close()


def test_a_database_whose_encoding_lacks_a_character_is_named(postgres_server: PostgresServer) -> None:
    store = Store(postgres_server.new_database(encoding="LATIN1"))
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="Käfer", label_config="<View/>"))
    with pytest.raises(StorageError, match=r"encoding of the database.*UTF8"), store.write() as session:
        session.add(ProjectRecord(id=2, key="2.0", title="甲虫", label_config="<View/>"))
    with store.read() as session:
        assert [row.title for row in session.scalars(select(ProjectRecord))] == ["Käfer"]
    with pytest.raises(DataError), store.write() as session:
        session.execute(text("SELECT 1 / 0"))
    store.close()


def test_an_exception_rolls_everything_back(store: Store) -> None:
    def fail() -> None:
        with store.write() as session:
            session.add(ProjectRecord(id=1, key="1.0", title="t", label_config=""))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with store.read() as session:
        assert session.get(ProjectRecord, 1) is None


def test_parallel_writers_do_not_lose_updates(store: Store) -> None:
    _project(store)

    def add_ten() -> None:
        for _ in range(10):
            with store.write() as session:
                row = session.get_one(ProjectRecord, 1)
                row.title = str(int(row.title) + 1) if row.title != "t" else "1"

    threads = [threading.Thread(target=add_ten) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as session:
        assert session.get_one(ProjectRecord, 1).title == "40"


def test_a_read_sees_one_state(store: Store) -> None:
    _project(store)
    with store.read() as session:
        assert session.scalar(select(ProjectRecord.title)) == "t"
        with store.write() as other:
            other.get_one(ProjectRecord, 1).title = "later"
        assert session.scalar(select(ProjectRecord.title)) == "t"
    with store.read() as session:
        assert session.scalar(select(ProjectRecord.title)) == "later"


def test_many_may_open_an_empty_database_at_once(database: str) -> None:
    together = threading.Barrier(6)

    def open_it(_: int) -> list[int]:
        together.wait()
        store = Store(database)
        ids = project_ids(store)
        store.close()
        return ids

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(open_it, range(6))) == [[]] * 6


def test_opening_waits_while_another_creates_the_sqlite_file(tmp_path: Path) -> None:
    """SQLite itself answers the switch to WAL with "database is locked" at once, whatever the time-out."""
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, other.execute, ("COMMIT",)).start()
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    assert project_ids(store) == []
    store.close()
    other.close()


def test_a_database_kept_busy_is_a_plain_error(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.store.database._BUSY_TIMEOUT_MS", 100)
    store = Store(database)
    with store.write(), pytest.raises(StorageError, match="cannot be written"), store.write():
        pytest.fail("two writers at once")
    _project(store)  # and goes on afterwards
    store.close()


def test_projects_are_written_side_by_side_on_postgres(postgres_url: str) -> None:
    store = Store(postgres_url)
    leases = [Lease(store, f"project/{i}", "a", ttl_s=60, heartbeat_s=0) for i in (1, 2)]
    for lease in leases:
        assert lease.acquire()
    with store.write(leases[0].fence) as first, store.write(leases[1].fence) as second:
        first.add(ProjectRecord(id=1, key="1.0", title="one", label_config="<View/>"))
        second.add(ProjectRecord(id=2, key="2.0", title="two", label_config="<View/>"))
    assert project_ids(store) == [1, 2]
    store.close()


def test_a_cut_connection_is_a_plain_error_and_the_next_write_goes_on(postgres_url: str) -> None:
    store = Store(postgres_url)
    cut = text("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(StorageError, match="cannot be written"), store.write() as session:
        session.execute(cut)
    with pytest.raises(StorageError, match="cannot be read"), store.read() as session:
        session.execute(cut)
    _project(store)
    assert project_ids(store) == [1]
    store.close()


def test_deleting_a_task_deletes_its_annotations(store: Store) -> None:
    with store.write() as session:
        session.add(_task(1, utc_now()))
        session.flush()
        session.add(
            AnnotationRecord(
                id=7, task_id=1, project_id=1, was_cancelled=False, ground_truth=False, created_at=utc_now(),
                updated_at=utc_now(), regions=[], digest="d", broken="",
            )
        )  # fmt: skip
    with store.write() as session:
        session.delete(session.get_one(TaskRecord, 1))
    with store.read() as session:
        assert session.get(AnnotationRecord, 7) is None


def test_only_one_holder_until_it_is_silent(store: Store) -> None:
    clock = Clock()
    first = Lease(store, "project/1", "a", ttl_s=60, heartbeat_s=0, now=clock)
    second = Lease(store, "project/1", "b", ttl_s=60, heartbeat_s=0, now=clock)
    assert first.acquire()
    clock.forward(50)
    first.beat()
    clock.forward(50)
    assert not second.acquire()
    clock.forward(11)
    assert second.acquire()
    assert second.fence.number > first.fence.number


def test_a_worker_presumed_dead_cannot_write_any_more(store: Store) -> None:
    _project(store)
    clock = Clock()
    first = Lease(store, "project/1", "a", ttl_s=60, heartbeat_s=0, now=clock)
    assert first.acquire()
    fence = first.fence
    with store.write(fence) as session:
        session.get_one(ProjectRecord, 1).title = "by a"
    clock.forward(61)
    assert Lease(store, "project/1", "b", ttl_s=60, heartbeat_s=0, now=clock).acquire()

    def write_late() -> None:
        with store.write(fence) as session:
            session.get_one(ProjectRecord, 1).title = "late"

    with pytest.raises(LeaseLost, match="taken over"):
        write_late()
    with pytest.raises(LeaseLost):
        first.beat()
    with store.read() as session:
        assert session.get_one(ProjectRecord, 1).title == "by a"


def test_release_frees_at_once_and_spares_a_successor(store: Store) -> None:
    clock = Clock()
    first = Lease(store, "x", "a", ttl_s=60, heartbeat_s=0, now=clock)
    second = Lease(store, "x", "b", ttl_s=60, heartbeat_s=0, now=clock)
    assert first.acquire()
    first.release()
    assert second.acquire()
    first.release()
    with store.read() as session:
        assert session.get_one(LeaseRecord, "x").holder == "b"
    with pytest.raises(LeaseLost):
        first.check()


def test_a_worker_that_was_replaced_cannot_free_the_lease_of_its_successor(store: Store) -> None:
    clock = Clock()
    first = Lease(store, "x", "a", ttl_s=60, heartbeat_s=0, now=clock)
    second = Lease(store, "x", "b", ttl_s=60, heartbeat_s=0, now=clock)
    third = Lease(store, "x", "c", ttl_s=60, heartbeat_s=0, now=clock)
    assert first.acquire()
    clock.forward(61)
    assert second.acquire()
    first.release()  # it wakes up, and does not know yet that it was replaced
    assert second.holder() == "b"
    assert not third.acquire()


def test_the_heartbeat_thread_notices_a_takeover(store: Store) -> None:
    lease = Lease(store, "x", "a", ttl_s=60, heartbeat_s=0.01)
    assert lease.acquire()
    with store.write() as session:
        row = session.scalars(select(LeaseRecord)).one()
        row.holder, row.fence = "b", row.fence + 1
    assert lease._lost.wait(10)
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()


def test_a_lease_counts_as_lost_when_no_sign_of_life_came_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    lease = Lease(store, "x", "a", ttl_s=60, heartbeat_s=0, now=clock, seconds=clock.seconds)
    assert lease.acquire()
    clock.forward(50)
    lease.beat()
    clock.forward(59)
    lease.check()

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", _database_is_away)
        with pytest.raises(StorageError):
            lease.beat()
    clock.forward(1)
    with pytest.raises(LeaseLost, match="run out"):
        lease.check()
    lease.beat()  # nobody took it over meanwhile: the store says that it is still ours
    lease.check()


def _database_is_away(*_: object) -> None:
    raise StorageError("away")


def test_clocks_of_workers_do_not_matter(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose clock is hours ahead does not see its neighbour as silent."""
    store = Store(database)
    assert Lease(store, "x", "a", ttl_s=60, heartbeat_s=0).acquire()
    ahead = "sync.store.database.datetime"
    monkeypatch.setattr(ahead, _Ahead)
    assert not Lease(store, "x", "b", ttl_s=60, heartbeat_s=0).acquire()
    with store.read() as session:
        assert abs(database_now(session).timestamp() - time.time()) < 30
    store.close()


class _Ahead(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Ahead:  # type: ignore[override]
        return super().now(tz) + timedelta(hours=5)  # type: ignore[return-value]


def test_a_stale_worker_cannot_replace_the_files_of_its_successor(store: Store, tmp_path: Path) -> None:
    clock = Clock()
    leases = [Lease(store, "x", name, ttl_s=60, heartbeat_s=0, now=clock) for name in "ab"]
    assert leases[0].acquire()
    stale = ProjectStore(1, "1.0", "t", store, leases[0])
    write_json(tmp_path / "snapshot.json", "first", guard=stale.guard)
    clock.forward(61)
    assert leases[1].acquire()
    write_json(
        tmp_path / "snapshot.json", "second", guard=ProjectStore(1, "1.0", "t", store, leases[1]).guard
    )
    with pytest.raises(LeaseLost):
        write_json(tmp_path / "snapshot.json", "late", guard=stale.guard)
    with pytest.raises(LeaseLost), publish_dir(tmp_path / "version", guard=stale.guard) as staging:
        (staging / "weights").write_text("late")
    with pytest.raises(LeaseLost):
        publish_late(tmp_path, stale)
    assert read_json(tmp_path / "snapshot.json") == "second"
    assert sorted(
        path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "sub"
    ) == ["snapshot.json"]


def publish_late(folder: Path, stale: ProjectStore) -> None:
    with PoolWriter(folder / "pool", ["disc"], embedding_dim=2, guard=stale.guard) as writer:
        writer.add(1, Instances.empty(2))


def test_drop_derived_keeps_projects_and_forgets_watermarks(store: Store) -> None:
    _project(store)
    with store.write() as session:
        session.get_one(ProjectRecord, 1).watermark = utc_now()
        session.add(_task(5, utc_now()))
    store.drop_derived()
    with store.read() as session:
        assert session.get_one(ProjectRecord, 1).watermark is None
        assert session.scalars(select(TaskRecord)).all() == []


def test_bad_urls_and_places_are_plain_errors(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="GROUNDSWELL_DATABASE_URL"):
        Store("no url at all")
    with pytest.raises(BadInput, match="GROUNDSWELL_DATABASE_URL"):
        Store("nosuchdb://x")
    with pytest.raises(StorageError):
        Store(f"sqlite:///{tmp_path}")
