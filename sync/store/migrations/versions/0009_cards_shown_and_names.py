"""Cards that are on somebody's screen or were passed on, and what people are called in Label Studio."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0009"
down_revision: str | None = "0008"
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the columns and the table; no card of before is known to be on a screen."""
    op.add_column("review_cards", sa.Column("shown_at", _MOMENT, nullable=True))
    op.add_column(
        "review_cards", sa.Column("shared", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.create_table(
        "people",
        sa.Column("server", sa.String(length=8), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("read_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("server", "number"),
    )
