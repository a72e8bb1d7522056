"""What people are called: the names under which they were invited to the review page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from sync.store.project_store import ProjectStore
from sync.store.review_tables import InviteRecord

__all__ = ["Names", "names_of"]


@dataclass(frozen=True, slots=True)
class Names:
    """Names by number of the user; two Label Studio servers number their users apart.

    ``label``: users of the label project; ``review``: users of the review projects.
    """

    label: Mapping[int, str]
    review: Mapping[int, str]


def names_of(db: ProjectStore) -> Names:
    """Names of all who were ever invited to this project; others have only a number."""
    query = select(InviteRecord).where(InviteRecord.project_id == db.id).order_by(InviteRecord.created_at)
    with db.read() as session:
        rows = list(session.scalars(query))
    return Names(
        label={row.label_user: row.name for row in rows if row.label_user is not None},
        review={row.review_user: row.name for row in rows if row.review_user is not None},
    )
