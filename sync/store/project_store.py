"""One project's part of the store: reads, and writes under the lease that its worker holds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from sync.store.database import Store
from sync.store.lease import Lease

__all__ = ["ProjectStore"]


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
