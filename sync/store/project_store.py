"""One project's part of the store: reads, and writes under the lease that its worker holds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from sync.store.database import Store
from sync.store.lease import Lease
from sync.store.tables import ProjectRecord

__all__ = ["ProjectStore", "Revision"]


@dataclass(frozen=True, slots=True)
class Revision:
    """Marks of a project's state: ``tasks`` changes with tasks, annotations, test split and inferences,
    ``review`` with questions, answers and review tasks. Equal marks, equal rows (``store.revisions``).
    """

    key: str
    tasks: str
    review: str


@dataclass(frozen=True, slots=True)
class ProjectStore:
    """The store as the steps of one project use it.

    ``id``, ``key`` and ``title`` are those of the project in Label Studio. Without a ``lease`` (commands that
    only look, tests) writes are not fenced.
    """

    id: int
    key: str
    title: str
    store: Store
    lease: Lease | None = None

    def read(self) -> AbstractContextManager[Session]:
        """A session that sees one consistent state. Raises StorageError when the database is gone."""
        return self.store.read()

    def write(self) -> AbstractContextManager[Session]:
        """A write transaction under the lease, if there is one. Raises LeaseLost, StorageError.

        Also the guard of files (``artifacts.files.Guard``): while a file is renamed inside it, no other
        worker can take the lease over.
        """
        return self.store.write(None if self.lease is None else self.lease.fence)

    def revision(self) -> Revision:
        """The marks of the project's state now; read them before the rows they stand for."""
        query = select(ProjectRecord.tasks_revision, ProjectRecord.review_revision).where(
            ProjectRecord.id == self.id
        )
        with self.read() as session:
            row = session.execute(query).first()
        return Revision(self.key, *("", "") if row is None else (row.tasks_revision, row.review_revision))
