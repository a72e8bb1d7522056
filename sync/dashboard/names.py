"""What people are called: by their invite to the review page, else as Label Studio calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from sync.rounds.people import LABEL, review_server
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.review_tables import InviteRecord
from sync.store.tables import PersonRecord

__all__ = ["Names", "names_of"]


@dataclass(frozen=True, slots=True)
class Names:
    """Names by number of the user; two Label Studio servers number their users apart.

    ``label``: users of the label project; ``review``: users of the review projects.
    """

    label: Mapping[int, str]
    review: Mapping[int, str]


def names_of(db: ProjectStore, settings: Settings) -> Names:
    """Name, or else e-mail, of everybody that is known; others have only a number.

    The name of an invite comes first: the admin chose it.
    """
    query = select(InviteRecord).where(InviteRecord.project_id == db.id).order_by(InviteRecord.created_at)
    with db.read() as session:
        invited = list(session.scalars(query))
        people = list(session.scalars(select(PersonRecord)))
    known: dict[str, dict[int, str]] = {}
    for row in people:
        if row.name or row.email:
            known.setdefault(row.server, {})[row.number] = row.name or row.email
    label, review = known.get(LABEL, {}), known.get(review_server(settings), {})
    return Names(
        label={**label, **{row.label_user: row.name for row in invited if row.label_user is not None}},
        review={**review, **{row.review_user: row.name for row in invited if row.review_user is not None}},
    )
