"""Test splits are numbered; a round says with which one it began, and where its version comes from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0006"
down_revision: str | None = "0005"


def upgrade() -> None:
    """Make the table anew, since its key changes; the one split there was becomes number 1."""
    op.rename_table("test_split", "old_test_split")
    op.create_table(
        "test_split",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "number", "task_id", name="numbered_test_split"),
    )
    op.execute(
        "INSERT INTO test_split (project_id, number, task_id) "
        "SELECT project_id, 1, task_id FROM old_test_split"
    )
    op.drop_table("old_test_split")
    op.add_column(
        "rounds", sa.Column("origin", sa.String(length=12), nullable=False, server_default="trained")
    )
    op.add_column("rounds", sa.Column("split", sa.Integer(), nullable=False, server_default="1"))
