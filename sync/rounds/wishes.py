"""Wishes: what an admin asked of the worker: a pause, and a round that starts now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from ml_backend.errors import BadInput
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord

__all__ = [
    "PAUSES",
    "PAUSE_TEXTS",
    "Pause",
    "Wishes",
    "forget_wanted_round",
    "refuse_when_paused",
    "wishes_of",
]

Pause = Literal["", "asking", "all"]
PAUSES: Final = ("", "asking", "all")
PAUSE_TEXTS: Final = {
    "asking": "paused: no new questions are asked, open ones may be answered",
    "all": "paused: nothing is trained, asked or pushed; what people do is still read",
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """``paused`` is one of PAUSES; ``round_wanted``: when somebody asked for a round that has not begun."""

    paused: str = ""
    round_wanted: datetime | None = None


def wishes_of(db: ProjectStore) -> Wishes:
    """What is asked of this project now."""
    with db.read() as session:
        record = session.get_one(ProjectRecord, db.id)
    return Wishes(record.paused, record.round_wanted)


def forget_wanted_round(db: ProjectStore, wanted: datetime) -> None:
    """The round that was asked for at ``wanted`` began, or cannot begin; a later wish stays."""
    with db.write() as session:
        record = session.get_one(ProjectRecord, db.id)
        if record.round_wanted is not None and record.round_wanted <= wanted:
            record.round_wanted = None


def refuse_when_paused(db: ProjectStore) -> None:
    """Raise BadInput when nothing may be trained or pushed in this project now."""
    if wishes_of(db).paused == "all":
        raise BadInput(
            f"project {db.id} is paused",
            field="project",
            hint=f"`groundswell project resume {db.id}` ends the pause",
        )
