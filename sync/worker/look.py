"""One look at a project: find which steps of the round are missing, and do them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime

from ml_backend.errors import BadInput, ModelError
from ml_backend.log_fields import set_log_fields
from sync.alike.step import forget_looks, keep_offers
from sync.mistakes.step import keep_mistakes
from sync.review.answers import pull_answers
from sync.review.labelling_instructions import refresh_labelling_instructions
from sync.review.review import ReviewReport, review
from sync.rounds.backend_facts import write_facts
from sync.rounds.click_preparation import prepare_clicks
from sync.rounds.cluster import cluster
from sync.rounds.due import training_due
from sync.rounds.early import given_up, infer_limit_s, is_early
from sync.rounds.given_rounds import ADOPTED, COLD
from sync.rounds.infer import infer, tasks_to_infer
from sync.rounds.old_rounds import drop_old_rounds
from sync.rounds.people import note_people
from sync.rounds.project import OpenProject, refreshed
from sync.rounds.pull import PullReport, pull
from sync.rounds.push import PushReport, note_order, push, push_state
from sync.rounds.round_records import current_round, has_finished, reload_round, trained_round
from sync.rounds.start_order import typical_first
from sync.rounds.task_queries import finished_digests
from sync.rounds.train import (
    as_trained,
    begin_again,
    cold_start_due,
    is_retry_due,
    start_cold,
    start_round,
    train,
)
from sync.rounds.wanted_version import begin_wanted_version
from sync.rounds.wishes import (
    PAUSE_TEXTS,
    Wishes,
    forget_wanted_round,
    refuse_when_paused,
    wishes_of,
)
from sync.store.database import utc_now
from sync.store.tables import RoundRecord

__all__ = ["LookReport", "look"]


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


def look(project: OpenProject, *, force_round: bool = False, may_train: bool = True) -> LookReport:
    """Do whatever is missing in a project now. Raises what the steps raise.

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
    pulled = pull(db, project.studio, project.config, settings, progress)
    write_facts(db, _as_trained(project, trained_round(db)).config, settings)
    note_people(db, project.studio, project.review_studio, settings, memo)
    begun, problem = begin_wanted_version(db, project.config, settings, paths)
    if begun is not None:
        progress.report("train", 0.0, f"round {begun.number}: an earlier version serves again, as asked")
    trained, error = _train_as_wished(project, wishes, force=force_round, may_train=may_train)
    error = error or problem
    record = trained_round(db)
    set_log_fields(round=None if record is None else record.number)
    project = _as_trained(project, record)
    if record is None:
        if current_round(db) is None:
            typical_first(db, project.studio, settings, paths, project.images, progress)
        _keep_offers(project)
        return LookReport(project.id, pulled=pulled, error=error, paused=wishes.paused)
    forget_looks(paths)
    is_new = not has_finished(record, "infer") or bool(tasks_to_infer(db, paths, memo, record))
    limit_s = infer_limit_s(settings, record)
    record = infer(db, settings, paths, project.images, progress, memo, record, limit_s=limit_s)
    # people see proposals before questions are asked
    pushed = _push(project, record) if is_new or not record.pushed else None
    if is_early(record):
        return LookReport(project.id, pulled, record.number, trained, None, pushed, error, wishes.paused)
    record = cluster(db, project.config, settings, paths, progress, record)
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
    db, settings = project.db, project.settings
    pulled = pull(db, project.studio, project.config, settings, project.progress)
    pull_answers(db, project.review_studio, settings, project.progress)
    write_facts(db, _as_trained(project, trained_round(db)).config, settings)
    return LookReport(project.id, pulled=pulled, paused="all")


def _train_as_wished(
    project: OpenProject, wishes: Wishes, *, force: bool, may_train: bool
) -> tuple[str, str]:
    """``_train_if_due``, also when an admin asked for a round; the wish ends when its round is there.

    A round that was begun before somebody asked is finished first. One that cannot begin, or fails, ends the
    wish too: it would be tried again at every look.
    """
    wanted = wishes.round_wanted if may_train else None
    if wanted is not None and _began_since(project, wanted):
        forget_wanted_round(project.db, wanted)
        wanted = None
    before = current_round(project.db)
    trained, error = _train_if_due(project, force=force, wanted=wanted is not None, may_train=may_train)
    after = current_round(project.db)
    has_begun = after is not None and (before is None or after.number > before.number)  # whatever clocks say
    if wanted is not None and (error or has_begun or _began_since(project, wanted)):
        forget_wanted_round(project.db, wanted)
    return trained, error


def _began_since(project: OpenProject, wanted: datetime) -> bool:
    newest = current_round(project.db)
    return newest is not None and newest.started_at >= wanted


def _train_if_due(project: OpenProject, *, force: bool, wanted: bool, may_train: bool) -> tuple[str, str]:
    """Train if it is due. Returns the version trained just now, and why training failed.

    With ``force`` somebody waits for a whole round; ``wanted``: somebody asked for one and waits for nothing.
    A first training goes before a cold start, and does not wait for one that failed.
    """
    db, config, settings, paths = project.db, project.config, project.settings, project.paths
    newest = current_round(db)
    if not may_train:
        is_given = newest is not None and newest.origin == ADOPTED and not has_finished(newest, "train")
        return _train(project, newest) if newest is not None and is_given else ("", "")
    reason = training_due(db, config, settings, paths, project.memo)
    if newest is not None and newest.origin == COLD and not has_finished(newest, "train"):
        newest = None if reason or not settings.cold_start else newest
    is_asked_for = (force or wanted) and bool(finished_digests(db))
    if not reason and not is_asked_for and cold_start_due(db, config, settings, paths):
        record = start_cold(db, config, settings, paths)
        project.progress.report("train", 0.0, f"round {record.number}: cold start with {settings.cold_start}")
        return _train(project, record)
    if newest is not None and not has_finished(newest, "train") and not given_up(newest):
        again = None
        if newest.failed:
            again = begin_again(project.db, project.config, project.settings, project.paths, newest)
        if again is not None:
            return _train(project, again)
        waiting = newest.failed and not is_retry_due(newest, time.time())
        if not waiting or force or wanted:
            return _train(project, newest)
    elif (force or wanted) and (newest is None or has_finished(newest, "push")):
        reason = reason or "asked for"
    if not reason:
        return "", ""
    try:  # where somebody waits for a whole round, an early version is of no use
        record = start_round(db, config, settings, paths, early=not force)
    except BadInput as error:  # nothing to train on (a label was renamed), or a wrong option
        project.progress.report("train", 1.0, f"no round can begin: {error}")
        return "", str(error)
    project.progress.report("train", 0.0, f"round {record.number}: {reason}")
    return _train(project, record)


def _train(project: OpenProject, record: RoundRecord) -> tuple[str, str]:
    set_log_fields(round=record.number)
    try:
        made = train(project.db, project.settings, project.paths, project.images, project.progress, record)
        return ("" if given_up(made) else made.model_version), ""
    except (ModelError, BadInput) as error:
        project.progress.report("train", 1.0, f"round {record.number} failed: {error}")
        return "", f"training of round {record.number} failed: {error}"


def _push_due(project: OpenProject, record: RoundRecord, reviewed: ReviewReport) -> bool:
    """Whether to push: missing predictions at once; decisions when review is done or the last push is old."""
    state = push_state(project.db, project.config, project.settings, project.paths, project.memo, record)
    if state.plan.is_empty and state.plan.version == record.pushed:
        return False
    age = None if record.pushed_at is None else (utc_now() - record.pushed_at).total_seconds()
    return state.is_urgent or reviewed.done or age is None or age >= project.settings.push_interval_s
