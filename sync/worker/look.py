"""One look at a project: find which steps of the round are missing, and do them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ml_backend.log_fields import set_log_fields
from sync.alike.step import forget_looks, keep_offers
from sync.mistakes.step import keep_mistakes
from sync.review.answers import pull_answers
from sync.review.labelling_instructions import refresh_labelling_instructions
from sync.review.review import ReviewReport, review
from sync.rounds.backend_facts import write_facts
from sync.rounds.click_preparation import prepare_clicks
from sync.rounds.cluster import cluster
from sync.rounds.early import infer_limit_s, is_early
from sync.rounds.infer import infer, tasks_to_infer
from sync.rounds.old_rounds import drop_old_rounds
from sync.rounds.people import note_people
from sync.rounds.project import OpenProject, refreshed
from sync.rounds.pull import PullReport, pull
from sync.rounds.push import PushReport, note_order, push
from sync.rounds.push_due import push_due
from sync.rounds.round_records import (
    current_round,
    reload_round,
    served_round,
    trained_round,
)
from sync.rounds.start_order import typical_first
from sync.rounds.train import as_trained
from sync.rounds.wishes import PAUSE_TEXTS, refuse_when_paused, wishes_of
from sync.store.database import utc_now
from sync.store.round_state import has_finished
from sync.store.tables import RoundRecord
from sync.worker.round_begin import LeavesTraining, Training, begin_or_train, is_in_training

__all__ = ["LookReport", "look"]

INFER_S: Final = 60.0
"""seconds after which a look of the worker leaves tasks to the next one, so that answers need not wait"""


@dataclass(frozen=True, slots=True)
class LookReport:
    """What one look at a project did; steps that were not needed are None or empty.

    ``paused`` is what an admin stopped, see ``wishes``.
    """

    project_id: int
    pulled: PullReport | None = None
    round: int | None = None
    trained: str = ""
    review: ReviewReport | None = None
    pushed: PushReport | None = None
    error: str = ""
    paused: str = ""


def look(
    project: OpenProject, training: Training, *, force_round: bool = False, may_train: bool = True
) -> LookReport:
    """Do whatever is missing in a project now. Raises what the steps raise.

    ``training``: whether the look trains by itself, or only begins a round and goes on with the version that
    serves. In the second case it also looks at tasks for a minute at most: while a new version still looks at
    all tasks, the version before it is shown and reviewed.

    Without ``may_train`` no training is begun; a model that is to be taken over is.

    A training that fails is noted and the look goes on with the last round that has a model. A paused project
    is only read; a training that somebody asks for is refused then (BadInput).
    """
    project = refreshed(project)
    if force_round or not may_train:
        refuse_when_paused(project.db)
    wishes = wishes_of(project.db)
    if wishes.paused:
        project.progress.report("pause", 1.0, PAUSE_TEXTS[wishes.paused])
    if wishes.paused == "all":
        return _only_read(project)
    db, settings, paths = project.db, project.settings, project.paths
    progress, memo = project.progress, project.memo
    pulled = pull(db, project.studio, project.config, settings, progress, memo, counted=project.counted)
    write_facts(db, _as_trained(project, trained_round(db)).config, settings)
    note_people(db, project.studio, project.review_studio, settings, memo)
    trained, error = begin_or_train(project, wishes, training, force=force_round, may_train=may_train)
    record = trained_round(db)
    set_log_fields(round=None if record is None else record.number)
    of_now, project = project, _as_trained(project, record)
    if record is None:
        if current_round(db) is None:
            typical_first(db, project.studio, settings, paths, project.images, progress, memo)
        _keep_offers(project)
        return LookReport(project.id, pulled=pulled, error=error, paused=wishes.paused)
    forget_looks(paths)
    if is_early(record) and record.pushed and is_in_training(project):  # whole cores for the whole training
        return LookReport(project.id, pulled, record.number, trained, None, None, error, wishes.paused)
    is_new = not has_finished(record, "infer") or bool(tasks_to_infer(db, paths, memo, record))
    limit_s = infer_limit_s(settings, record)
    if limit_s is None and isinstance(training, LeavesTraining):
        limit_s = INFER_S
    record = infer(db, settings, paths, project.images, progress, memo, record, limit_s=limit_s)
    if not has_finished(record, "infer"):
        before = served_round(db)
        if before is None or is_early(before):
            return LookReport(project.id, pulled, record.number, trained, None, None, error, wishes.paused)
        record, is_new = before, False
        project = _as_trained(of_now, record)
    # people see proposals before questions are asked
    pushed = _push(project, record) if is_new or not record.pushed else None
    if is_early(record):
        return LookReport(project.id, pulled, record.number, trained, None, pushed, error, wishes.paused)
    record = cluster(db, project.config, settings, paths, progress, memo, record)
    reviewed = _review(project, record, may_ask=not wishes.paused)
    record = reload_round(db, record)
    if _push_due(project, record, reviewed):
        pushed = _push(project, record)
    elif pulled.changes and pushed is None:
        note_order(db, settings, paths, memo, record)
    write_facts(db, project.config, settings)
    record = reload_round(db, record)
    _keep_mistakes(project, record, is_changed=bool(pulled.changes))
    drop_old_rounds(db, settings, paths)
    is_new_order = pushed is not None
    prepare_clicks(db, settings, paths, project.images, progress, memo, record, is_new_order=is_new_order)
    return LookReport(project.id, pulled, record.number, trained, reviewed, pushed, error, wishes.paused)


def _as_trained(project: OpenProject, record: RoundRecord | None) -> OpenProject:
    """The project as the round's model knows it, see ``as_trained``."""
    if record is None:
        return project
    return replace(project, config=as_trained(project.config, project.paths, project.memo, record))


def _push(project: OpenProject, record: RoundRecord) -> PushReport:
    settings, paths, progress, memo = project.settings, project.paths, project.progress, project.memo
    return push(project.db, project.studio, project.config, settings, paths, progress, memo, record)


def _review(project: OpenProject, record: RoundRecord, *, may_ask: bool) -> ReviewReport:
    report = review(
        project.db,
        project.review_studio,
        project.config,
        project.settings,
        project.paths,
        project.images,
        project.progress,
        project.memo,
        record,
        may_ask=may_ask,
    )
    refresh_labelling_instructions(
        project.db, project.studio, project.config, project.settings, project.paths, project.memo
    )
    return report


def _keep_mistakes(project: OpenProject, record: RoundRecord, *, is_changed: bool) -> None:
    keep_mistakes(
        project.db,
        project.studio,
        project.config,
        project.settings,
        project.paths,
        project.images,
        project.progress,
        project.memo,
        record,
        is_changed=is_changed,
    )


def _keep_offers(project: OpenProject) -> None:
    keep_offers(
        project.db,
        project.studio,
        project.config,
        project.settings,
        project.paths,
        project.images,
        project.progress,
        project.memo,
    )


def _only_read(project: OpenProject) -> LookReport:
    """The look at a project that is paused: what people drew and answered is read, and nothing is written."""
    db, settings, progress = project.db, project.settings, project.progress
    pulled = pull(
        db, project.studio, project.config, settings, progress, project.memo, counted=project.counted
    )
    pull_answers(db, project.review_studio, settings, progress)
    write_facts(db, _as_trained(project, trained_round(db)).config, settings)
    return LookReport(project.id, pulled=pulled, paused="all")


def _push_due(project: OpenProject, record: RoundRecord, reviewed: ReviewReport) -> bool:
    """Whether to push: missing predictions at once; decisions when review is done or the last push is old."""
    due = push_due(project.db, project.config, project.settings, project.paths, project.memo, record)
    if due == "nothing":
        return False
    age = None if record.pushed_at is None else (utc_now() - record.pushed_at).total_seconds()
    return due == "urgent" or reviewed.done or age is None or age >= project.settings.push_interval_s
