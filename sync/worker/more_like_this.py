"""``offer_alike`` for a command: under the lease of the project, with what people did up to now."""

from __future__ import annotations

from collections.abc import Callable

from ml_backend.images.store import ImageStore
from sync.alike.ask import Ask, checked
from sync.alike.step import Offered, offer_alike
from sync.rounds.progress import Progress
from sync.rounds.project import open_project, refreshed
from sync.rounds.pull import pull
from sync.rounds.wishes import refuse_when_paused
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import hold_project
from sync.studio.protocol import StudioClient

__all__ = ["more_like_this"]


def more_like_this(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    project_id: int,
    ask: Ask,
    *,
    dry_run: bool = False,
    report: Callable[[str, float, str], None] = lambda step, share, text: None,
) -> Offered:
    """Offer masks like those drawn.

    Raises BadInput as ``offer_alike`` does, or when a worker has the project, or when it is paused.
    """
    checked(ask, open_project(settings, store, studio, project_id).config, settings)
    with hold_project(store, settings, project_id) as (lease, _):
        images, progress = ImageStore(settings), Progress(report, lease=lease)
        project = refreshed(
            open_project(settings, store, studio, project_id, images=images, lease=lease, progress=progress)
        )
        if not dry_run:
            refuse_when_paused(project.db)
        pull(project.db, studio, project.config, project.settings, progress)
        return offer_alike(
            project.db,
            studio,
            project.config,
            project.settings,
            project.paths,
            images,
            progress,
            ask,
            dry_run=dry_run,
        )
