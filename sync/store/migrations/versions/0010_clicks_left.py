"""Clicks of smart tools that were never accepted, per annotation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0010"
down_revision: str | None = "0009"


def upgrade() -> None:
    """Add the column. Annotations pulled before count as without; ``groundswell rebuild`` reads them anew."""
    op.add_column("annotations", sa.Column("clicks_left", sa.Integer(), nullable=False, server_default="0"))
