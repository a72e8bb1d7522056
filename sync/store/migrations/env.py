"""Run by alembic: applies the missing steps in the connection that ``sync.store.migrate`` passes."""

from __future__ import annotations

from alembic import context

from sync.store.migrate import VERSION_TABLE
from sync.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
