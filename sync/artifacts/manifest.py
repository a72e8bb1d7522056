"""The manifest: which object of the object store is the content of which file of a project.

Its rows are the pointers. A new object is announced first (``intend``), then written, and becomes the content
of its file in one transaction (``point``). Whatever is killed before leaves an object that no row names, but
a note that it is *left over*. Contents that were replaced or deleted are left over as well. After a day they
are deleted (``claim_left_over``): by then nobody reads them any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ml_backend.errors import StorageError
from sync.store.database import database_now
from sync.store.revisions import new_mark
from sync.store.tables import ArtifactRecord, InstallationRecord, LeftOverRecord, ProjectRecord

__all__ = [
    "Entry",
    "claim_left_over",
    "first_mark",
    "forget_deleted",
    "forget_files",
    "intend",
    "mark_of",
    "point",
    "read_manifest",
    "withdraw",
]

_KEPT_FOR: Final = timedelta(hours=24)
_AT_ONCE: Final = 500
_FORGOTTEN: Final = "forgotten/"
"""before the number of a project whose files were taken out, in the table ``installation``"""


@dataclass(frozen=True, slots=True)
class Entry:
    """The content of a file: name of the object, hex SHA-256, bytes."""

    path: str
    key: str
    digest: str
    size: int


def mark_of(session: Session, project_id: int) -> str:
    """Another text after every change of the project's manifest; empty before the first."""
    return (
        session.scalar(select(ProjectRecord.artifacts_revision).where(ProjectRecord.id == project_id)) or ""
    )


def read_manifest(session: Session, project_id: int) -> dict[str, Entry]:
    """All files of a project by path, in the order in which they became what they are."""
    columns = (ArtifactRecord.path, ArtifactRecord.key, ArtifactRecord.digest, ArtifactRecord.size_bytes)
    rows = session.execute(
        select(*columns).where(ArtifactRecord.project_id == project_id).order_by(ArtifactRecord.id)
    )
    return {row.path: Entry(row.path, row.key, row.digest, row.size_bytes) for row in rows}


def intend(session: Session, keys: Collection[str]) -> None:
    """Announce objects that are about to be written."""
    now = database_now(session)
    session.add_all(LeftOverRecord(key=key, since=now) for key in keys)


def point(session: Session, project_id: int, entries: Sequence[Entry]) -> None:
    """Let announced objects be the contents of their files; what was there before is left over.

    Raises StorageError when one of them took so long that it was deleted as left over.
    """
    for keys in _chunks(sorted(entry.key for entry in entries)):
        unclaimed = delete(LeftOverRecord).where(
            LeftOverRecord.key.in_(keys), LeftOverRecord.claimed.is_(False)
        )
        if session.execute(unclaimed).rowcount != len(keys):  # type: ignore[attr-defined]
            raise StorageError(
                f"object {keys[0]}, or one of {len(keys) - 1} others, was written for so long that it counts "
                "as left over",
                hint="The next look writes it again",
            )
    _leave(session, project_id, {entry.path: None for entry in entries})
    session.add_all(
        ArtifactRecord(
            project_id=project_id, path=entry.path, key=entry.key, digest=entry.digest, size_bytes=entry.size
        )
        for entry in entries
    )
    session.flush()  # in this order: their numbers say which came first


def withdraw(session: Session, project_id: int, entries: Sequence[Entry]) -> None:
    """Take files out, as far as they still have this content."""
    _leave(session, project_id, {entry.path: entry.key for entry in entries})


def forget_files(session: Session, project_id: int) -> None:
    """Take all files of a project out, for good: what machines hold of them counts nowhere any more."""
    _leave(session, project_id, None)
    session.merge(InstallationRecord(name=f"{_FORGOTTEN}{project_id}", value="1"))


def first_mark(session: Session, project_id: int) -> str:
    """The mark of a project whose row is new.

    Empty where this database never knew a file of that number: what machines hold then is all there is.
    """
    has_files = select(ArtifactRecord.id).where(ArtifactRecord.project_id == project_id).limit(1)
    is_known = session.get(InstallationRecord, f"{_FORGOTTEN}{project_id}") or session.scalar(has_files)
    return new_mark() if is_known else ""


def _leave(session: Session, project_id: int, paths: Mapping[str, str | None] | None) -> None:
    """Delete rows, and note their objects as left over. A path with a key goes only while it has that key."""
    query = select(ArtifactRecord).where(ArtifactRecord.project_id == project_id)
    wanted = [None] if paths is None else _chunks(sorted(paths))
    now = database_now(session)
    for part in wanted:
        rows = session.scalars(query if part is None else query.where(ArtifactRecord.path.in_(part)))
        for row in rows:
            key = None if paths is None else paths[row.path]
            if key is None or key == row.key:
                session.add(LeftOverRecord(key=row.key, since=now))
                session.delete(row)
    session.flush()


def _chunks(paths: Sequence[str]) -> list[Sequence[str]]:
    return [paths[at : at + _AT_ONCE] for at in range(0, len(paths), _AT_ONCE)]


def claim_left_over(session: Session, after: str = "") -> list[str]:
    """Some objects that nothing names for a day; from now on nothing will. Delete them, then forget them.

    In the order of their names, those behind ``after``.
    """
    old = LeftOverRecord.since < database_now(session) - _KEPT_FOR
    # an object that becomes a content in this moment is left out: its note is locked, or gone
    keys = list(
        session.scalars(
            select(LeftOverRecord.key)
            .where(old, LeftOverRecord.key > after)
            .order_by(LeftOverRecord.key)
            .limit(_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
    )
    if keys:
        session.execute(update(LeftOverRecord).where(LeftOverRecord.key.in_(keys)).values(claimed=True))
    return keys


def forget_deleted(session: Session, keys: Collection[str]) -> None:
    """Drop the notes of objects that were deleted."""
    session.execute(
        delete(LeftOverRecord).where(LeftOverRecord.key.in_(keys), LeftOverRecord.claimed.is_(True))
    )
