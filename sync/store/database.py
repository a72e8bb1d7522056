"""The worker's store: SQLite by default (WAL, one writer at a time), Postgres by URL.

Both keep the same promises: a read sees one state, writes do not lose each other's updates. SQLite has one
writer at a time by itself. On Postgres there is one advisory lock with two modes. A write without a fence has
the store alone. Writes under different fences share it, and the lease row keeps two writes under the same
fence apart. A *fence* is the proof of holding a lease (see ``lease``).
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.orm import Session, sessionmaker

from ml_backend.errors import BadInput, LeaseLost, StorageError
from sync.store import review_tables
from sync.store.engine import open_engine
from sync.store.migrate import bring_up_to_date, is_up_to_date
from sync.store.revisions import new_mark, watch
from sync.store.tables import Base, LeaseRecord, ProjectRecord

__all__ = ["Fence", "Store", "compare_everything", "database_now", "utc_now"]

_BUSY_TIMEOUT_MS = 30_000
_IDLE_TIMEOUT_MS = 600_000
_WRITERS = 0x67726F756E64
"""Number of the advisory lock of writers on Postgres, the same for every worker."""

_KEPT = frozenset(
    {
        "projects",
        "leases",
        "artifacts",
        "left_over_artifacts",
        "installation",
        *(
            record.__tablename__
            for record in (review_tables.InviteRecord, review_tables.CardRecord, review_tables.OutboxRecord)
        ),
    }
)
"""Tables of what is nowhere else: configuration, invites, answers on their way to Label Studio, and which
objects of the object store are whose."""

_GONE = (OperationalError, InterfaceError, InternalError)
"""What drivers raise when the database is full, read-only, too busy or not there."""

_UNTRANSLATABLE = "22P05"
"""what Postgres answers to a character that the database's encoding lacks"""


def utc_now() -> datetime:
    """The time, aware and in UTC."""
    return datetime.now(UTC)


def database_now(session: Session) -> datetime:
    """The time by the database's own clock, aware and in UTC: the same for all workers."""
    if session.get_bind().dialect.name == "postgresql":
        moment: datetime = session.scalars(select(func.clock_timestamp())).one()
        return moment.astimezone(UTC)
    text = session.scalars(select(func.strftime("%Y-%m-%d %H:%M:%f", "now"))).one()
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def compare_everything(session: Session) -> None:
    """Let the next look of each project compare all that Label Studio holds, not only what changed."""
    for project in session.scalars(select(ProjectRecord)):
        project.watermark = None
        project.review_watermark = None
        project.sheet_watermark = None
        project.pulled_at = None
        project.compared_at = None
        project.tasks_revision, project.review_revision = new_mark(), new_mark()


class Fence:
    """Proof of holding a lease: its name and the fencing number it was given."""

    __slots__ = ("name", "number")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number

    def __repr__(self) -> str:
        return f"Fence({self.name!r}, {self.number})"


class Store:
    """Sessions on one database.

    Parameters
    ----------
    url : SQLAlchemy URL. For SQLite the file and its folder are made when missing.
    upgrade : bring tables of an earlier release up to date. Without, they stay as they are: for a backup
        before an upgrade, which reads nothing but columns that every release has

    Raises
    ------
    BadInput
        The URL is no database URL, or its driver is not installed.
    StorageError
        The database cannot be opened, or a newer release of Groundswell made it.
    """

    def __init__(self, url: str, *, upgrade: bool = True) -> None:
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = open_engine(parsed, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise BadInput(
                "the database URL cannot be used",
                field="GROUNDSWELL_DATABASE_URL",
                hint="Use sqlite:////path/file.db or postgresql+psycopg://user:password@host/name "
                "(pip install 'groundswell[postgres]')",
            ) from error
        readers = self._engine
        if self._engine.dialect.name == "sqlite":
            _configure_sqlite(self._engine)
        elif self._engine.dialect.name == "postgresql":
            _configure_postgres(self._engine)
            readers = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._writers = self._engine.execution_options(groundswell_write=True)
        self._read = sessionmaker(readers, expire_on_commit=False)
        self._write = sessionmaker(self._writers, expire_on_commit=False)
        watch(self._write)
        try:
            with self._writers.begin() as connection:
                _wait_for_turn(connection)  # several workers may be started on one database at once
                if upgrade and not is_up_to_date(connection):
                    bring_up_to_date(connection)
        except _GONE as error:
            raise StorageError(
                f"the store {parsed.render_as_string(hide_password=True)} cannot be opened: {error.orig}",
                hint="Check GROUNDSWELL_DATA_DIR and GROUNDSWELL_DATABASE_URL",
            ) from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one consistent state and writes nothing.

        Raises
        ------
        StorageError
            The database is gone.
        """
        try:
            with self._read() as session:
                yield session
        except _GONE as error:
            raise StorageError(
                f"the store cannot be read: {error.orig}", hint="Is the database up?"
            ) from error

    @contextmanager
    def write(self, fence: Fence | None = None, *, shared: bool = False) -> Iterator[Session]:
        """A session in one transaction, committed at the end, rolled back on an exception.

        With ``fence`` the transaction checks, under the database's own lock, that the lease is still held;
        so a worker that was presumed dead can never write over its successor.

        On Postgres a transaction with a fence goes on beside others of its kind, one without waits until it
        is alone, unless ``shared`` says that it locks the rows it works on itself.

        Raises
        ------
        LeaseLost
            Another worker took the lease over; nothing was written.
        StorageError
            The disk is full, the database is read-only or gone, others kept it busy for too long, or its
            encoding cannot hold a text.
        """
        try:
            with self._write() as session, session.begin():
                _wait_for_turn(session.connection(), shared=shared or fence is not None)
                if fence is not None:
                    held = session.scalar(
                        select(LeaseRecord.fence).where(LeaseRecord.name == fence.name).with_for_update()
                    )
                    if held != fence.number:
                        raise LeaseLost(
                            f"lease {fence.name} was taken over (number {held}, ours is {fence.number})"
                        )
                yield session
        except _GONE as error:
            raise StorageError(
                f"the store cannot be written: {error.orig}", hint="Is the disk full or the file read-only?"
            ) from error
        except DataError as error:
            if getattr(error.orig, "sqlstate", "") != _UNTRANSLATABLE:
                raise
            raise StorageError(
                "the encoding of the database cannot hold a text of Label Studio",
                field="GROUNDSWELL_DATABASE_URL",
                hint="Move the store to a database made with ENCODING 'UTF8' (groundswell backup, restore)",
            ) from error

    def drop_derived(self) -> None:
        """Drop every derived table and make it anew; the next pull of each project is full.

        Kept are the projects, what the review page holds (invites, answers that are not written yet), and the
        pointers to shared files.
        """
        derived = [table for table in Base.metadata.sorted_tables if table.name not in _KEPT]
        with self._writers.begin() as connection:
            _wait_for_turn(connection)
            Base.metadata.drop_all(connection, tables=derived)
            Base.metadata.create_all(connection, tables=derived)
        with self.write() as session:
            compare_everything(session)

    def close(self) -> None:
        self._engine.dispose()


def _configure_sqlite(engine: Engine) -> None:
    """WAL, foreign keys, a busy time-out, and transactions that take the write lock when they begin.

    A deferred transaction that reads first and writes later fails at once with "database is locked" when
    another writer came in between: the busy time-out does not help there. BEGIN IMMEDIATE does.
    """

    @event.listens_for(engine, "connect")
    def _connect(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # we emit BEGIN ourselves
        cursor = dbapi_connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        _switch_to_wal(cursor)
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("groundswell_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Write-ahead log on, however many connections to a new database ask for it at once.

    Only the first of them changes the file. SQLite does not apply the busy time-out to that change (waiting
    while holding a shared lock could be a deadlock), so the others are told "database is locked" at once.
    """
    give_up = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte: without the details
            if not busy or time.monotonic() > give_up:
                raise
        time.sleep(random.uniform(0.005, 0.05))


def _configure_postgres(engine: Engine) -> None:
    """Time-outs, so that a worker that hangs or lost its machine cannot stop the others for ever."""

    @event.listens_for(engine, "connect")
    def _connect(dbapi_connection: Any, _record: Any) -> None:
        with dbapi_connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {_BUSY_TIMEOUT_MS}")
            cursor.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_TIMEOUT_MS}")
            for name, value in (("idle", 60), ("interval", 10), ("count", 6)):
                cursor.execute(f"SET tcp_keepalives_{name} = {value}")
        dbapi_connection.commit()


def _wait_for_turn(connection: Connection, *, shared: bool = False) -> None:
    """Hold the writers' lock until the transaction ends: alone, or beside others who share it."""
    if connection.dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        connection.execute(select(lock(_WRITERS)))
