"""Withdraw an invite to the review page."""

from __future__ import annotations

from sqlalchemy import select

from ml_backend.errors import BadInput
from sync.store.database import Store, utc_now
from sync.store.review_tables import InviteRecord

__all__ = ["revoke"]


def revoke(store: Store, invite_id: str, *, project_id: int | None = None) -> InviteRecord:
    """Refuse an invite from now on; answers given with it stay. Raises BadInput for an unknown one.

    ``invite_id`` may be shortened as long as one invite (of the project, where one is given) begins with it.
    """
    now = utc_now()
    with store.write() as session:
        found = [
            row
            for row in session.scalars(select(InviteRecord))
            if row.id.startswith(invite_id) and project_id in (None, row.project_id)
        ]
        if len(found) != 1 or not invite_id:
            raise BadInput(
                f"{len(found)} invites begin with {invite_id[:40]!r}",
                field="id",
                hint="`groundswell invite list` shows them",
            )
        found[0].revoked_at = found[0].revoked_at or now
    return found[0]
