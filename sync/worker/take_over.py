"""Predictions of a model that exists for all open tasks of a project; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ml_backend.errors import BadInput, GroundswellError
from ml_backend.images.store import ImageStore
from sync.rounds.given_rounds import GivenModel, snapshot_of_model
from sync.rounds.progress import Progress
from sync.rounds.project import open_project, refreshed
from sync.rounds.round_records import trained_round
from sync.rounds.train import start_adopted
from sync.rounds.wishes import refuse_when_paused
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import hold_project
from sync.studio.protocol import StudioClient
from sync.worker.look import LookReport, look
from sync.worker.round_begin import TrainsHere

__all__ = ["take_over"]


def take_over(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    project_id: int,
    model: GivenModel | None,
    *,
    named: Mapping[str, str] | None = None,
    default: str | None = None,
    review_studio: StudioClient | None = None,
    report: Callable[[str, float, str], None] = lambda step, share, text: None,
) -> LookReport:
    """Let ``model`` look at all open tasks of a project and show what it finds; safe to repeat and to kill.

    The model becomes that of a new round, unless the present round has it already. None is the present model:
    it looks at tasks that are new. ``named`` and ``default`` are the class map, see ``class_map``. Questions
    are asked about its masks, as in every round, and the project goes on training when that is due.

    Raises BadInput when a worker holds the project, when no label fits or when there is no model,
    GroundswellError when the model cannot be taken over.
    """
    with hold_project(store, settings, project_id) as (lease, training):
        project = refreshed(
            open_project(
                settings,
                store,
                studio,
                project_id,
                review_studio=review_studio,
                images=ImageStore(settings),
                lease=lease,
                progress=Progress(report, lease=lease),
            )
        )
        refuse_when_paused(project.db)
        shown = trained_round(project.db)
        if model is None and shown is None:
            raise BadInput(
                f"project {project_id} has no model yet",
                field="model",
                hint="Name one with --model, or finish some tasks",
            )
        if model is not None and (shown is None or shown.model_version != model.version or named or default):
            snapshot = snapshot_of_model(model, project.id, named or {}, default)
            start_adopted(project.db, project.config, project.settings, project.paths, snapshot)
        found = look(project, TrainsHere(training), may_train=False)
        if found.error:
            raise GroundswellError(found.error)
        return found
