"""The schema of the store: which version a database has, and how an older one is brought up to date.

``NEWEST`` is written into the table ``groundswell_schema``. A database without that table, but with projects,
was made before there were migrations: its tables are those of the first migration.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text

from ml_backend.errors import StorageError

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["NEWEST", "VERSION_TABLE", "bring_up_to_date", "is_up_to_date", "known_revisions", "revision_of"]

NEWEST: Final = "0013"
"""The last of the migrations in ``sync/store/migrations/versions``."""
VERSION_TABLE: Final = "groundswell_schema"
_FIRST: Final = "0001"
_FOLDER: Final = Path(__file__).parent / "migrations"


def is_up_to_date(connection: Connection) -> bool:
    """Whether the database has the tables of this release; costs one or two short queries."""
    return revision_of(connection) == NEWEST


def known_revisions() -> frozenset[str]:
    """The revisions that this release can bring up to date, and its own."""
    from alembic.script import ScriptDirectory

    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def bring_up_to_date(connection: Connection) -> None:
    """Apply the migrations that are missing, inside the transaction of ``connection``.

    The caller holds the writers' lock, so several workers may start at once. Raises StorageError when a newer
    release made the database; nothing is changed then.
    """
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    found = revision_of(connection)
    if found and found not in known_revisions():
        raise StorageError(
            f"the store was made by a newer release of Groundswell (schema {found}, this one knows {NEWEST})",
            hint="Install that release, or name another store with GROUNDSWELL_DATABASE_URL",
        )
    if not found and inspect(connection).has_table("projects"):
        command.stamp(config, _FIRST)
    command.upgrade(config, NEWEST)


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def revision_of(connection: Connection) -> str:
    """Schema version of the database; empty when it does not say."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return ""
    return str(connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) or "")
