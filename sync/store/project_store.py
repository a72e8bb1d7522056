"""One project's part of the store: reads, and writes under the lease that its worker holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from sync.store.database import Store
from sync.store.lease import Lease
from sync.store.tables import ProjectRecord

__all__ = ["ProjectStore", "Publisher", "Revision"]

Write = Callable[[], AbstractContextManager[Session]]


class Publisher(Protocol):
    """Makes files known to other machines, see ``sync.artifacts.shared``."""

    def publishing(self, target: Path, staged: Path, write: Write) -> AbstractContextManager[object]:
        """Guard a rename inside the transaction ``write``, in which the file becomes known to all."""
        ...

    def removing(self, target: Path, write: Write) -> AbstractContextManager[object]:
        """Guard the removal of a file or folder likewise."""
        ...

    def bring(self, *folders: Path) -> int:
        """Fetch what lies below these folders and is not held here because of the limit."""
        ...

    def is_away(self, folder: Path) -> bool:
        """Whether files below this folder are shared and not held here because of the limit."""
        ...


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
    only look, tests) writes are not fenced. ``shared`` is there when several machines share the files.
    """

    id: int
    key: str
    title: str
    store: Store
    lease: Lease | None = None
    shared: Publisher | None = None

    def read(self) -> AbstractContextManager[Session]:
        """A session that sees one consistent state. Raises StorageError when the database is gone."""
        return self.store.read()

    def write(self) -> AbstractContextManager[Session]:
        """A write transaction under the lease, if there is one. Raises LeaseLost, StorageError."""
        return self.store.write(None if self.lease is None else self.lease.fence)

    def guard(self, target: Path | None = None, staged: Path | None = None) -> AbstractContextManager[object]:
        """The guard of files (``artifacts.files.Guard``): a write transaction under the lease.

        While a file is renamed or removed inside it, no other worker can take the lease over. Raises
        LeaseLost, StorageError.
        """
        if self.shared is None or target is None:
            return self.write()
        if staged is None:
            return self.shared.removing(target, self.write)
        return self.shared.publishing(target, staged, self.write)

    def bring(self, *folders: Path) -> None:
        """Fetch what lies below these folders, where this machine does without it. Raises StorageError."""
        if self.shared is not None:
            self.shared.bring(*folders)

    def is_away(self, folder: Path) -> bool:
        """Whether this machine does without what others have below this folder."""
        return self.shared is not None and self.shared.is_away(folder)

    def revision(self) -> Revision:
        """The marks of the project's state now; read them before the rows they stand for."""
        query = select(ProjectRecord.tasks_revision, ProjectRecord.review_revision).where(
            ProjectRecord.id == self.id
        )
        with self.read() as session:
            row = session.execute(query).first()
        return Revision(self.key, *("", "") if row is None else (row.tasks_revision, row.review_revision))
