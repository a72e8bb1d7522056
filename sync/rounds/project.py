"""What every step needs of a project, opened once per look: settings, store, clients, paths, lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import Lease
from sync.store.tables import ProjectRecord, RoundRecord
from sync.studio.protocol import StudioClient

__all__ = [
    "Project",
    "Report",
    "latest_round",
    "open_project",
    "project_ids",
    "register_project",
    "unregister_project",
]

Report = Callable[[str, float, str], None]
"""Called with step, share done (0..1) and one line about it."""


def _silent(step: str, share: float, text: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Project:
    """One project while a worker looks at it.

    ``settings`` already carry the project's own options. ``studio`` holds the project itself,
    ``review_studio`` its review projects (another server when crowds are kept apart). ``checkpoint`` is
    called at every boundary between and inside steps; it raises to stop there (a signal, a test).
    """

    id: int
    key: str
    title: str
    config: LabelConfig
    settings: Settings
    store: Store
    studio: StudioClient
    review_studio: StudioClient
    images: ImageStore
    paths: ProjectPaths
    lease: Lease | None = None
    report: Report = _silent
    checkpoint: Callable[[str], None] = lambda place: None
    memo: dict[object, object] = field(default_factory=dict)
    """values a worker keeps between looks; their keys name all they depend on"""

    def read(self) -> AbstractContextManager[Session]:
        return self.store.read()

    def write(self) -> AbstractContextManager[Session]:
        """A write transaction under the lease, if there is one."""
        return self.store.write(None if self.lease is None else self.lease.fence)

    def at(self, place: str) -> None:
        """Mark a boundary: raises LeaseLost when the lease is gone, or what ``checkpoint`` raises."""
        if self.lease is not None:
            self.lease.check()
        self.checkpoint(place)

    def with_config(self, xml: str) -> Project:
        return replace(self, config=parse_label_config(xml))


def register_project(
    store: Store, studio: StudioClient, project_id: int, *, options: Mapping[str, Any] | None = None
) -> None:
    """Let a Label Studio project take part; ``options`` replace its own options when given (idempotent).

    Raises BadLabelConfig when the project's label config cannot be used, BadInput on a wrong option,
    StudioError when the project is not there. Nothing is stored then.
    """
    row = studio.project(project_id)
    parse_label_config(row.label_config)
    if options is not None:
        Settings().for_project(options)
    with store.write() as session:
        record = session.get(ProjectRecord, project_id)
        if record is None:
            record = ProjectRecord(id=project_id, options={})
            session.add(record)
        record.key = row.key
        record.title = row.title
        record.label_config = row.label_config
        if options is not None:
            record.options = dict(options)


def unregister_project(store: Store, project_id: int) -> None:
    """Forget a project; nothing is deleted in Label Studio or on disk."""
    with store.write() as session:
        record = session.get(ProjectRecord, project_id)
        if record is not None:
            session.delete(record)


def project_ids(store: Store) -> list[int]:
    """Projects that take part, in order."""
    with store.read() as session:
        return list(session.scalars(select(ProjectRecord.id).order_by(ProjectRecord.id)))


def open_project(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    project_id: int,
    *,
    review_studio: StudioClient | None = None,
    images: ImageStore | None = None,
    lease: Lease | None = None,
    report: Report = _silent,
    checkpoint: Callable[[str], None] = lambda place: None,
    memo: dict[object, object] | None = None,
) -> Project:
    """Open a registered project. Raises BadInput when it is not registered, BadLabelConfig when unusable."""
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
    if record is None:
        raise BadInput(
            f"project {project_id} does not take part",
            field="project",
            hint="Create it with `groundswell init`, or name it with `groundswell worker --project N`",
        )
    return Project(
        id=record.id,
        key=record.key,
        title=record.title,
        config=parse_label_config(record.label_config),
        settings=settings.for_project(record.options),
        store=store,
        studio=studio,
        review_studio=review_studio or studio,
        images=images or ImageStore(settings),
        paths=ProjectPaths(settings.data_dir, record.id),
        lease=lease,
        report=report,
        checkpoint=checkpoint,
        memo={} if memo is None else memo,
    )


def latest_round(session: Session, project_id: int) -> RoundRecord | None:
    """The newest round of a project."""
    return session.scalar(
        select(RoundRecord)
        .where(RoundRecord.project_id == project_id)
        .order_by(RoundRecord.number.desc())
        .limit(1)
    )
