"""From the schema of every release to that of today: no row of any table is lost or changed unsaid."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    DateTime,
    Float,
    MetaData,
    String,
    Table,
    create_engine,
    select,
)

from sync.store import migrate, review_tables
from sync.store.database import Store
from sync.store.tables import Base

REVISIONS = sorted(migrate.known_revisions())
ROWS = (1, 2, 3)

Rows = dict[str, list[dict[str, Any]]]


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _value(column: Any, n: int) -> Any:
    """A value for row ``n`` that differs from row to row where the type allows it."""
    kind = column.type
    if isinstance(kind, DateTime):
        return datetime(2026, 1, n, 12, 30, 15, 250_000, tzinfo=UTC)
    if isinstance(kind, JSON):
        return {"n": [n, "ü"]}
    if isinstance(kind, Boolean):
        return bool(n % 2)
    if isinstance(kind, Float):
        return n / 8
    if isinstance(kind, String):
        return f"{column.name} {n}"[: kind.length or None] if (kind.length or 99) > 8 else f"w{n}"
    return n  # keys of other tables are numbers too, so they fit


def _tables(connection: Connection) -> list[Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != migrate.VERSION_TABLE]


def _read(connection: Connection, tables: list[Table]) -> Rows:
    rows: Rows = {}
    for table in tables:
        listed = [dict(row) for row in connection.execute(select(table)).mappings()]
        rows[table.name] = sorted(listed, key=lambda row: str(sorted(row.items(), key=str)))
    return rows


def _as_of_today(rows: Rows, revision: str) -> Rows:
    """What the migrations after ``revision`` say that they change in rows."""
    if revision < "0003":
        for row in rows["projects"]:
            row["review_watermark"] = row["sheet_watermark"] = None  # every review task is read again
    return rows


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_row_of_every_table_comes_along(database: str, tmp_path: Path, revision: str) -> None:
    (tmp_path / "sub").mkdir(exist_ok=True)
    engine = create_engine(database)
    with engine.begin() as connection:
        command.upgrade(_config(connection), revision)
    with engine.begin() as connection:
        tables = _tables(connection)
        for table in tables:
            for n in ROWS:
                connection.execute(table.insert().values({c.name: _value(c, n) for c in table.columns}))
    with engine.connect() as connection:
        before = _read(connection, tables)
    assert before
    assert all(len(rows) == len(ROWS) for rows in before.values())

    store = Store(database)
    with engine.connect() as connection:
        assert migrate.revision_of(connection) == migrate.NEWEST
        assert _read(connection, tables) == _as_of_today(before, revision)
        options = {"version_table": migrate.VERSION_TABLE, "compare_type": False}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
    with store.read() as session:  # and today's code can read all of it
        for mapper in Base.registry.mappers:
            found = session.scalars(select(mapper.class_)).all()
            assert len(found) == (len(ROWS) if mapper.local_table.name in before else 0), mapper
    store.close()
    engine.dispose()


def test_the_tables_of_today_are_all_among_them(store: Store) -> None:
    """A new table has a migration, and so its rows are in the test above from the next release on."""
    assert review_tables.OutboxRecord.__tablename__ in Base.metadata.tables
    with store.read() as session:
        assert {table.name for table in _tables(session.connection())} == set(Base.metadata.tables)
