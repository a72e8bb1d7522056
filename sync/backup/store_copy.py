"""One moment of the store, copied while others go on writing.

Files of projects are renamed into place inside a write transaction of the store. So whoever holds the
writers' lock sees a store and files that belong together. The lock is held only while that moment is pinned:
for the store by a read transaction (SQLite) or an exported snapshot (Postgres), for files see ``backup``. The
copy is made afterwards.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import which

from sqlalchemy import func, select
from sqlalchemy.engine import URL, make_url

from ml_backend.errors import BadInput, StorageError
from sync.backup.manifest import StoreKind
from sync.store.engine import open_engine

__all__ = ["connection_of", "copy_sqlite", "kind_of", "pinned", "run_postgres_tool", "sqlite_file"]

_BUSY_S = 30.0


def kind_of(url: str) -> StoreKind:
    """Which kind of store a URL names. Raises BadInput for one that cannot be backed up."""
    parsed = make_url(url)
    name = parsed.get_backend_name()
    if name == "postgresql":
        return "postgresql"
    if name == "sqlite" and parsed.database and parsed.database != ":memory:":
        return "sqlite"
    raise BadInput(
        f"a store of the kind {name} cannot be backed up or restored",
        field="GROUNDSWELL_DATABASE_URL",
        hint="SQLite in a file and Postgres can",
    )


def sqlite_file(url: str) -> Path:
    """The file of a store of SQLite."""
    return Path(make_url(url).database or "").absolute()


@contextmanager
def pinned(url: str) -> Iterator[Callable[[Path], None]]:
    """Pin the present state of the store; the function that is given writes it into a file.

    Enter it while nobody writes (``Store.write``); the function may be called after that lock was given back.
    Raises StorageError when the database refuses or a program of Postgres is missing.
    """
    if kind_of(url) == "sqlite":
        with closing(sqlite3.connect(sqlite_file(url), timeout=_BUSY_S, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the read begins here
            yield lambda target: copy_sqlite(reader, target)
        return
    parsed = make_url(url)
    _program("pg_dump")
    engine = open_engine(parsed, isolation_level="REPEATABLE READ")
    try:
        with engine.connect() as connection:
            name = str(connection.scalar(select(func.pg_export_snapshot())))
            yield lambda target: run_postgres_tool(
                "pg_dump",
                parsed,
                "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={name}", f"--file={target}",
            )  # fmt: skip
    finally:
        engine.dispose()


def copy_sqlite(reader: sqlite3.Connection, target: Path) -> None:
    """Copy a database through SQLite's online backup into one new file, and check that it can be read.

    What ``reader`` sees is copied: with an open read transaction, the state at its beginning. Raises
    StorageError when the copy is damaged.
    """
    with closing(sqlite3.connect(target)) as copy:
        reader.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a write-ahead log beside it
        found = copy.execute("PRAGMA quick_check(1)").fetchone()
    if found != ("ok",):
        raise StorageError(
            f"the database {target.name} is damaged: {found[0]}",
            hint="Groundswell's own store comes back with `groundswell rebuild`",
        )


def connection_of(url: URL) -> tuple[str, dict[str, str]]:
    """How libpq's programs reach a database: words for the command line, the password in the environment."""
    from psycopg.conninfo import make_conninfo

    known = {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "dbname": url.database,
        **{name: value for name, value in url.query.items() if isinstance(value, str)},
    }
    secret = str(known.pop("password", None) or url.password or "")
    words = make_conninfo(**{name: str(value) for name, value in known.items() if value is not None})
    return words, ({"PGPASSWORD": secret} if secret else {})


def _program(name: str) -> str:
    found = which(name)
    if found is None:
        raise StorageError(
            f"the program {name} is not on this machine: a store of Postgres cannot be copied without it",
            hint="Install the client programs of Postgres (Debian: apt-get install postgresql-client), or "
            "run this command in the container or on the machine that has them, with the same "
            "GROUNDSWELL_DATABASE_URL and data directory",
        )
    return found


def run_postgres_tool(name: str, url: URL, *options: str) -> None:
    """Run ``pg_dump`` or ``pg_restore`` on a database. Raises StorageError with its last complaint."""
    words, environment = connection_of(url)
    done = subprocess.run(
        [_program(name), f"--dbname={words}", "--no-password", *options],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise StorageError(
            f"{name} ended with code {done.returncode}: {lines[-1][:300]}",
            hint="Its version must not be older than that of the server" if "version" in done.stderr else "",
        )
