"""How much the machines of an installation share, and how much of it this machine has."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from ml_backend.artifacts.paths import ProjectPaths
from sync.artifacts.held import Held
from sync.artifacts.manifest import read_manifest
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import LeftOverRecord, ProjectRecord

__all__ = ["SharedFigures", "shared_figures"]


@dataclass(frozen=True, slots=True)
class SharedFigures:
    """``missing`` files this machine has not fetched yet; ``left_over`` objects are named by nothing."""

    url: str
    files: int
    size_bytes: int
    missing: int
    left_over: int

    @property
    def line(self) -> str:
        """For people."""
        here = "all are here" if not self.missing else f"{self.missing} are not here yet"
        size = f"{self.files} files, {self.size_bytes / 1e6:.1f} MB in {self.url}"
        return f"{size}; {here}" + (f"; {self.left_over} objects left over" if self.left_over else "")


def shared_figures(settings: Settings, store: Store) -> SharedFigures | None:
    """The figures of all projects; None where machines share no files. The object store is not asked."""
    if not settings.artifacts_url:
        return None
    files = size = missing = 0
    with store.read() as session:
        for project_id in session.scalars(select(ProjectRecord.id)):
            entries = read_manifest(session, project_id).values()
            held = Held(ProjectPaths(settings.data_dir, project_id).root).load()
            files += len(entries)
            size += sum(entry.size for entry in entries)
            missing += sum(entry.path not in held or held[entry.path].key != entry.key for entry in entries)
        left_over = session.scalar(select(func.count()).select_from(LeftOverRecord)) or 0
    return SharedFigures(settings.artifacts_url, files, size, missing, left_over)
