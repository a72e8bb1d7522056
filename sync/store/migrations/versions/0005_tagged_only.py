"""Tasks that are finished by tags alone: models still look for the objects on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0005"
down_revision: str | None = "0004"


def upgrade() -> None:
    """Add the column. Earlier releases had no projects of that kind."""
    op.add_column("tasks", sa.Column("tagged_only", sa.Boolean(), nullable=False, server_default=sa.false()))
