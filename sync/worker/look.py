"""One look at a project: find which steps of the round are missing, and do them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ml_backend.errors import ModelError
from sync.review.review import ReviewReport, review
from sync.rounds.backend_facts import write_facts
from sync.rounds.click_preparation import prepare_clicks
from sync.rounds.cluster import cluster
from sync.rounds.infer import infer, tasks_to_infer
from sync.rounds.project import Project
from sync.rounds.pull import PullReport, pull, refresh_project
from sync.rounds.push import PushReport, push, push_version
from sync.rounds.round_records import current_round, has_finished, reload_round, trained_round
from sync.rounds.train import is_retry_due, start_round, train, training_due
from sync.store.database import utc_now
from sync.store.tables import RoundRecord

__all__ = ["LookReport", "review_tick", "run_round"]


@dataclass(frozen=True, slots=True)
class LookReport:
    """What one look at a project did; steps that were not needed are None or empty."""

    project_id: int
    pulled: PullReport | None = None
    round: int | None = None
    trained: str = ""
    review: ReviewReport | None = None
    pushed: PushReport | None = None
    error: str = ""


def look(project: Project, *, force_round: bool = False) -> LookReport:
    """Do for a project whatever is missing now. Raises what the steps raise.

    A training that fails is noted and the look goes on with the last round that has a model.
    """
    project = refresh_project(project)
    pulled = pull(project)
    write_facts(project)
    trained, error = _train_if_due(project, force=force_round)
    record = trained_round(project)
    if record is None:
        return LookReport(project.id, pulled=pulled, error=error)
    is_new = not has_finished(record, "infer") or bool(tasks_to_infer(project, record.model_version))
    record = infer(project, record)
    # people see proposals before questions are asked
    pushed = push(project, record) if is_new or not record.pushed else None
    record = cluster(project, record)
    reviewed = review(project, record)
    record = reload_round(project, record)
    if _push_due(project, record, reviewed, pulled):
        pushed = push(project, record)
    write_facts(project)
    prepare_clicks(project, reload_round(project, record), is_new_order=pushed is not None)
    return LookReport(project.id, pulled, record.number, trained, reviewed, pushed, error)


def run_round(project: Project) -> LookReport:
    """Run a whole round of one project now, even when few tasks are new.

    A round that was begun and not pushed yet is finished instead of starting another. Calling ``look`` or
    ``review_tick`` afterwards goes on with its review.
    """
    return look(project, force_round=True)


def review_tick(project: Project, *, with_push: bool = True) -> ReviewReport | None:
    """One look at the review of the newest trained round, decisions pushed when it is done.

    None when there is no round to review yet.
    """
    record = trained_round(project)
    if record is None or not has_finished(record, "cluster"):
        return None
    reviewed = review(project, record)
    record = reload_round(project, record)
    if with_push and _push_due(project, record, reviewed, PullReport()):
        push(project, record)
        write_facts(project)
    return reviewed


def _train_if_due(project: Project, *, force: bool) -> tuple[str, str]:
    """Train if it is time: the version trained just now, and why training failed."""
    newest = current_round(project)
    reason = training_due(project)
    if newest is not None and not has_finished(newest, "train"):
        waiting = newest.failed and not is_retry_due(newest, time.time())
        if not waiting or force:
            return _train(project, newest)
    elif force and (newest is None or has_finished(newest, "push")):
        reason = reason or "asked for"
    if not reason:
        return "", ""
    record = start_round(project)
    project.report("train", 0.0, f"round {record.number}: {reason}")
    return _train(project, record)


def _train(project: Project, record: RoundRecord) -> tuple[str, str]:
    try:
        return train(project, record).model_version, ""
    except ModelError as error:
        project.report("train", 1.0, f"round {record.number} failed: {error}")
        return "", f"training of round {record.number} failed: {error}"


def _push_due(project: Project, record: RoundRecord, reviewed: ReviewReport, pulled: PullReport) -> bool:
    """Whether to push: re-opened tasks at once, decisions when review is done or the last push is old."""
    if record.pushed == push_version(project, record):
        return pulled.changes > 0
    age = None if record.pushed_at is None else (utc_now() - record.pushed_at).total_seconds()
    return reviewed.done or age is None or age >= project.settings.push_interval_s
