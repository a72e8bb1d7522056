"""What an admin asked of a project: a pause, and a round that should start now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0007"
down_revision: str | None = "0006"


def upgrade() -> None:
    """Add the columns; no project is paused."""
    op.add_column("projects", sa.Column("paused", sa.String(length=8), nullable=False, server_default=""))
    op.add_column("projects", sa.Column("round_wanted", sa.DateTime(timezone=True), nullable=True))
