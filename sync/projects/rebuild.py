"""Rebuild: drop what is derived and make it again from Label Studio and the data directory.

Label Studio is only read. Nothing is asked, withdrawn, pushed or connected: that is left to the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ml_backend.errors import GroundswellError
from sync.review.answers import pull_answers
from sync.review.decide import decide
from sync.review.decisions import store_decisions
from sync.review.review_project import ReviewOwner, find_review_projects, installation_id
from sync.rounds.backend_facts import write_facts
from sync.rounds.cluster import load_label_pools
from sync.rounds.history import write_history
from sync.rounds.project import OpenProject, open_project
from sync.rounds.pull import pull
from sync.rounds.registration import project_ids, register_project
from sync.rounds.round_records import restore_rounds, trained_round
from sync.rounds.test_split import restore_test_splits
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import Lease, hold_project
from sync.store.round_state import has_finished
from sync.store.tables import ProjectRecord, RoundRecord
from sync.studio.protocol import StudioClient

__all__ = ["RebuildReport", "rebuild"]


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What was brought back for one project, or why it could not be."""

    project_id: int
    tasks: int = 0
    rounds: int = 0
    review_tasks: int = 0
    error: str = ""


def rebuild(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    *,
    review_studio: StudioClient | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[RebuildReport]:
    """Drop every derived table and fill it again: people's answers from Label Studio, rounds from files.

    Projects are those of the store and, where the store was lost, those of the data directory. One project
    that cannot be rebuilt does not stop the others.

    Raises BadInput when a worker holds one of the projects; nothing was dropped then.
    """
    ids = sorted({*project_ids(store), *project_ids(store, gone=True), *_projects_on_disk(settings)})
    with ExitStack() as stack:
        leases = {
            project_id: stack.enter_context(hold_project(store, settings, project_id))[0]
            for project_id in ids
        }
        store.drop_derived()
        return _rebuild_all(settings, store, studio, review_studio, leases, report)


def _rebuild_all(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    review_studio: StudioClient | None,
    leases: Mapping[int, Lease],
    report: Callable[[str], None],
) -> list[RebuildReport]:
    reports = []
    for project_id, lease in leases.items():
        try:
            reports.append(_rebuild_project(settings, store, studio, review_studio, project_id, lease))
            report(f"project {project_id}: {reports[-1].tasks} tasks, {reports[-1].rounds} rounds")
        except GroundswellError as error:
            reports.append(RebuildReport(project_id, error=str(error)))
            report(f"project {project_id}: {error}")
    return reports


def _rebuild_project(
    settings: Settings,
    store: Store,
    studio: StudioClient,
    review_studio: StudioClient | None,
    project_id: int,
    lease: Lease,
) -> RebuildReport:
    register_project(settings, store, studio, project_id)
    with store.write(lease.fence) as session:
        record = session.get_one(ProjectRecord, project_id)
        owner = ReviewOwner(record.key, installation_id(settings.data_dir))
        reviews = find_review_projects((review_studio or studio).projects(), owner)
        record.review_project_id = reviews["single"].id if "single" in reviews else None
        record.sheet_project_id = reviews["sheet"].id if "sheet" in reviews else None
    project = open_project(settings, store, studio, project_id, review_studio=review_studio, lease=lease)
    pulled = pull(project.db, project.studio, project.config, project.settings, project.progress)
    restore_test_splits(project.db, project.paths)
    rounds = restore_rounds(project.db, project.paths)
    if rounds:
        write_history(project.db, project.settings, project.paths)
    review_tasks = pull_answers(project.db, project.review_studio, project.settings, project.progress)
    latest = trained_round(project.db)
    if latest is not None and has_finished(latest, "cluster"):
        _decide_again(project, latest)
    write_facts(project.db, project.config, project.settings)
    return RebuildReport(project_id, pulled.tasks_new, rounds, review_tasks)


def _decide_again(project: OpenProject, record: RoundRecord) -> None:
    """Work out decisions and verdicts of a round from the answers; new questions wait for the next look."""
    db, settings, paths = project.db, project.settings, project.paths
    pools = [pool for pool in load_label_pools(db, paths, project.memo, record) if len(pool)]
    plan = decide(db, settings, paths, project.progress, project.memo, record, pools)
    store_decisions(db, paths, record, plan.outcome)


def _projects_on_disk(settings: Settings) -> list[int]:
    folder = settings.data_dir / "projects"
    names = [path.parent.name for path in folder.glob("*/project.json")] if folder.is_dir() else []
    return [int(name) for name in names if name.isdigit() and _is_label_project(settings, int(name))]


def _is_label_project(settings: Settings, project_id: int) -> bool:
    from ml_backend.artifacts.project_facts import load_facts

    return load_facts(settings.data_dir, project_id).role == "label"
