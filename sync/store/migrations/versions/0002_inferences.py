"""Tasks looked at, comparisons of all tasks, and projects that are gone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Make the tables and columns."""
    op.create_table(
        "inferences",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model_version", sa.String(length=120), nullable=False),
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("project_id", "task_id"),
    )
    op.add_column("projects", sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("projects", sa.Column("compared_surplus", sa.Integer(), nullable=True))
    op.add_column("projects", sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True))
