"""Marks that change with every change of a project's tasks or of its review."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0012"
down_revision: str | None = "0011"


def upgrade() -> None:
    """Add the columns. They are empty until the first change."""
    for name in ("tasks_revision", "review_revision"):
        op.add_column("projects", sa.Column(name, sa.String(32), nullable=False, server_default=""))
