"""A project opened for a look or a command: what its steps need, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.label_config import LabelConfig, parse_label_config
from sync.artifacts.opening import begin_sharing, shared_files
from sync.rounds.kind_settings import kind_settings
from sync.rounds.progress import Memo, Progress
from sync.rounds.registration import refresh_project
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import Lease
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord
from sync.studio.protocol import StudioClient

__all__ = ["OpenProject", "open_project", "refreshed", "registered", "registered_labels"]


@dataclass(frozen=True, slots=True)
class OpenProject:
    """One project, opened for a look or a command: what its steps need, side by side.

    Steps take the parts they need, never the whole. ``settings`` already carry the project's own options.
    ``studio`` holds the project itself, ``review_studio`` its review projects (another server when crowds are
    kept apart).
    """

    db: ProjectStore
    studio: StudioClient
    review_studio: StudioClient
    config: LabelConfig
    settings: Settings
    paths: ProjectPaths
    images: ImageStore
    progress: Progress = field(default_factory=Progress)
    memo: Memo = field(default_factory=dict)
    counted: int | None = None
    """tasks in Label Studio when the project was last refreshed"""

    @property
    def id(self) -> int:
        """Number of the project in Label Studio."""
        return self.db.id


def registered(
    settings: Settings, store: Store, project_id: int, *, files: bool = False
) -> tuple[ProjectStore, Settings]:
    """A registered project's part of the store, and the settings with its own options.

    For commands that need the store, and with ``files`` also what is in the data directory. Raises BadInput
    when the project is not registered, with ``files`` also StorageError.
    """
    record = _record(store, project_id)
    shared = shared_files(settings, store, project_id)
    if shared is not None and files:
        shared.fetch()
    db = ProjectStore(record.id, record.key, record.title, store, shared=shared)
    return db, settings.for_project(record.options)


def registered_labels(store: Store, project_id: int) -> tuple[str, ...]:
    """The labels of a registered project. Raises BadInput when it is not registered."""
    return parse_label_config(_record(store, project_id).label_config).labels


def _record(store: Store, project_id: int) -> ProjectRecord:
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
    if record is None:
        raise BadInput(
            f"project {project_id} does not take part",
            field="project",
            hint="Create it with `groundswell init`, or name it with `groundswell worker --project N`",
        )
    return record


def open_project(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    project_id: int,
    *,
    review_studio: StudioClient | None = None,
    images: ImageStore | None = None,
    lease: Lease | None = None,
    progress: Progress | None = None,
    memo: Memo | None = None,
) -> OpenProject:
    """Open a registered project; where machines share files, fetch those that are new.

    Raises BadInput when it is not registered, BadLabelConfig when unusable, StorageError when its files
    cannot be fetched.
    """
    record = _record(store, project_id)
    config = parse_label_config(record.label_config)
    shared = shared_files(settings, store, project_id)
    db = ProjectStore(record.id, record.key, record.title, store, lease, shared)
    if shared is not None:
        begin_sharing(shared, db) if lease is not None else shared.fetch()
    return OpenProject(
        db=db,
        studio=studio,
        review_studio=review_studio or studio,
        config=config,
        settings=kind_settings(settings.for_project(record.options), config.wanted),
        paths=ProjectPaths(settings.data_dir, record.id),
        images=images or ImageStore(settings),
        progress=progress or Progress(lease=lease),
        memo={} if memo is None else memo,
    )


def refreshed(project: OpenProject) -> OpenProject:
    """The project with its present title and label config; see ``refresh_project``."""
    row, config = refresh_project(project.db, project.studio, project.paths)
    db = replace(project.db, title=row.title)
    return replace(project, config=config, db=db, counted=row.task_number)
