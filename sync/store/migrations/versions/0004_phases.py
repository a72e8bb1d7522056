"""Phases and certificates of questions in columns of their own, and the phase of decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0004"
down_revision: str | None = "0003"


def upgrade() -> None:
    """Add the columns. Older releases hid the phase in the cluster (-2 - phase): such a row had no cluster.

    Its answers verify their masks, but no test of the new release reads them: it gets phase -1.
    """
    op.add_column("questions", sa.Column("phase", sa.Integer(), nullable=False, server_default="-1"))
    op.add_column("questions", sa.Column("certificate", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("questions", sa.Column("terms", sa.String(length=16), nullable=False, server_default=""))
    op.add_column("decisions", sa.Column("phase", sa.Integer(), nullable=False, server_default="-1"))
    op.execute("UPDATE questions SET cluster = -1 WHERE cluster < -1")
