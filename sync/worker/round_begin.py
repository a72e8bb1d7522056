"""Which round a look begins, and who trains it: the look itself, or the training job beside it.

``TrainsHere`` is for callers that wait for the training. ``LeavesTraining`` is the worker's way: the look
writes the snapshot and the row of the round, calls for the training and goes on with the version that serves.
The job finds a round whose step ``train`` is missing and does it; the next look finds a trained round.

The row of a round that has no model yet belongs to the holder of the training's lease. A look that would
begin such a round anew takes that lease for the moment, and leaves the round alone while it is being trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from ml_backend.errors import BadInput, ModelError
from ml_backend.log_fields import set_log_fields
from sync.rounds.due import training_due
from sync.rounds.early import given_up
from sync.rounds.given_rounds import ADOPTED, COLD
from sync.rounds.project import OpenProject
from sync.rounds.round_records import current_round, update_round
from sync.rounds.task_queries import finished_digests
from sync.rounds.train import (
    begin_again,
    cold_start_due,
    is_retry_due,
    start_cold,
    start_round,
    train,
    waiting_training,
)
from sync.rounds.wanted_version import begin_wanted_version
from sync.rounds.wishes import Wishes, forget_wanted_round
from sync.store.lease import Lease
from sync.store.round_state import has_finished
from sync.store.tables import RoundRecord

__all__ = ["LeavesTraining", "Training", "TrainsHere", "begin_or_train", "is_in_training", "train_round"]


@dataclass(frozen=True, slots=True)
class TrainsHere:
    """The caller holds the training's lease as well; the look waits for the training."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeavesTraining:
    """Another job trains under ``lease``, which is not taken; ``call`` lets it come now."""

    lease: Lease
    call: Callable[[], None]


Training = TrainsHere | LeavesTraining


def begin_or_train(
    project: OpenProject, wishes: Wishes, training: Training, *, force: bool, may_train: bool
) -> tuple[str, str]:
    """Begin the round that is due, if one is, and train it if the look does so itself.

    With ``force`` somebody waits for a whole round; without ``may_train`` only a model that is to be taken
    over is made. Returns the version trained just now, and why a training failed or a round cannot begin.
    """
    with _rows(project, training) as free:
        if free is None:
            return "", ""  # the training that goes on is finished first
        begun, problem = begin_wanted_version(free.db, free.config, free.settings, free.paths)
        if begun is not None:
            text = f"round {begun.number}: an earlier version serves again, as asked"
            free.progress.report("train", 0.0, text)
        trained, error = _train_as_wished(free, wishes, training, force=force, may_train=may_train)
    if isinstance(training, LeavesTraining) and waiting_training(project.db, time.time()) is not None:
        training.call()
    return trained, error or problem


def is_in_training(project: OpenProject) -> bool:
    """Whether a round was begun whose model is still to come."""
    newest = current_round(project.db)
    return newest is not None and not (has_finished(newest, "train") or given_up(newest) or newest.failed)


@contextmanager
def _rows(project: OpenProject, training: Training) -> Iterator[OpenProject | None]:
    """The project as one may begin rounds in it; None while its newest round is being trained."""
    if isinstance(training, LeavesTraining):
        newest = current_round(project.db)
        if newest is None or has_finished(newest, "train") or given_up(newest):
            yield project  # a new row only
            return
        if not training.lease.acquire():
            yield None
            return
        with training.lease:
            yield _under(project, training.lease)
        return
    yield _under(project, training.lease)


def _under(project: OpenProject, lease: Lease) -> OpenProject:
    """The project with its writes under this lease."""
    progress = replace(project.progress, lease=lease)
    return replace(project, db=replace(project.db, lease=lease), progress=progress)


def _train_as_wished(
    project: OpenProject, wishes: Wishes, training: Training, *, force: bool, may_train: bool
) -> tuple[str, str]:
    """``_train_if_due``, also when an admin asked for a round; the wish ends when its round is there.

    A round that was begun before somebody asked is finished first. One that cannot begin, or fails, ends the
    wish too: it would be tried again at every look.
    """
    wanted = wishes.round_wanted if may_train else None
    if wanted is not None and (_began_since(project, wanted) or _failed_since(project, wanted, training)):
        forget_wanted_round(project.db, wanted)
        wanted = None
    before = current_round(project.db)
    trained, error = _train_if_due(
        project, training, force=force, wanted=wanted is not None, may_train=may_train
    )
    after = current_round(project.db)
    has_begun = after is not None and (before is None or after.number > before.number)  # whatever clocks say
    if wanted is not None and (error or has_begun or _began_since(project, wanted)):
        forget_wanted_round(project.db, wanted)
    return trained, error


def _began_since(project: OpenProject, wanted: datetime) -> bool:
    newest = current_round(project.db)
    return newest is not None and newest.started_at >= wanted


def _failed_since(project: OpenProject, wanted: datetime, training: Training) -> bool:
    """Whether the training job tried since; a look that trains itself sees the failure at once."""
    newest = current_round(project.db)
    is_apart = isinstance(training, LeavesTraining)
    return is_apart and newest is not None and bool(newest.failed) and newest.updated_at >= wanted


def _train_if_due(
    project: OpenProject, training: Training, *, force: bool, wanted: bool, may_train: bool
) -> tuple[str, str]:
    """Train if it is due. Returns the version trained just now, and why training failed.

    With ``force`` somebody waits for a whole round; ``wanted``: somebody asked for one and waits for nothing.
    A first training goes before a cold start, and does not wait for one that failed.
    """
    db, config, settings, paths = project.db, project.config, project.settings, project.paths
    newest = current_round(db)
    if not may_train:
        is_given = newest is not None and newest.origin == ADOPTED and not has_finished(newest, "train")
        return _made(project, training, newest) if newest is not None and is_given else ("", "")
    reason = training_due(db, config, settings, paths, project.memo)
    if newest is not None and newest.origin == COLD and not has_finished(newest, "train"):
        newest = None if reason or not settings.cold_start else newest
    is_asked_for = (force or wanted) and bool(finished_digests(db))
    if not reason and not is_asked_for and cold_start_due(db, config, settings, paths):
        record = start_cold(db, config, settings, paths)
        project.progress.report("train", 0.0, f"round {record.number}: cold start with {settings.cold_start}")
        return _made(project, training, record)
    if newest is not None and not has_finished(newest, "train") and not given_up(newest):
        again = None
        if newest.failed:
            again = begin_again(project.db, project.config, project.settings, project.paths, newest)
        if again is not None:
            return _made(project, training, again)
        waiting = newest.failed and not is_retry_due(newest, time.time())
        if not waiting or force or wanted:
            return _made(project, training, newest)
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
    return _made(project, training, record)


def _made(project: OpenProject, training: Training, record: RoundRecord) -> tuple[str, str]:
    """The round's model, made now or left to the job, which must then not wait after a failure."""
    if isinstance(training, TrainsHere):
        return train_round(project, record)
    if record.failed and not is_retry_due(record, time.time()):
        update_round(project.db, project.paths, record.number, failed="")
    return "", ""


def train_round(project: OpenProject, record: RoundRecord) -> tuple[str, str]:
    """Train a round under the lease of ``project``, which is that of its training.

    Returns the version, and why the training failed.
    """
    set_log_fields(round=record.number)
    try:
        made = train(
            project.db,
            project.settings,
            project.paths,
            project.images,
            project.progress,
            project.memo,
            record,
        )
        return ("" if given_up(made) else made.model_version), ""
    except (ModelError, BadInput) as error:
        project.progress.report("train", 1.0, f"round {record.number} failed: {error}")
        return "", f"training of round {record.number} failed: {error}"
