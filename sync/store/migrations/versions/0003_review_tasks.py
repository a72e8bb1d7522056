"""Review tasks as Label Studio holds them; all of them are read again at the next look."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Make the table, and let the next look read every review task."""
    op.create_table(
        "review_tasks",
        sa.Column("project_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("form", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=120), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("pictures", sa.JSON(), nullable=False),
        sa.Column("broken", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "id"),
    )
    op.execute("UPDATE projects SET review_watermark = NULL, sheet_watermark = NULL")
