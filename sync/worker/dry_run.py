"""Dry run: what a look that somebody asks for would do to a project, worked out without doing any of it.

It reads Label Studio, the store and the files, and writes nothing, neither there nor here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from ml_backend.label_studio.label_config import parse_label_config
from sync.rounds.due import training_due
from sync.rounds.early import given_up, is_early
from sync.rounds.infer import tasks_to_infer
from sync.rounds.project import OpenProject
from sync.rounds.push import expected_push
from sync.rounds.push_plan import PushPlan
from sync.rounds.round_records import current_round, trained_round, version_prefix
from sync.rounds.task_queries import finished_digests, open_task_ids
from sync.rounds.test_split import newest_split
from sync.rounds.train import as_trained
from sync.rounds.wishes import PAUSE_TEXTS, wishes_of
from sync.store.project_store import ProjectStore
from sync.store.round_state import has_finished
from sync.store.tables import ProjectRecord, RoundRecord, TaskRecord

__all__ = ["Minutes", "RoundPlan", "plan_round"]


@dataclass(frozen=True, slots=True)
class Minutes:
    """How long steps will take, from the rounds of this project before; None where there was none."""

    train: float | None
    infer: float | None
    cluster: float | None
    push: float | None
    rounds: int

    @property
    def total(self) -> float | None:
        """All steps that something is known of; None without any."""
        known = [part for part in (self.train, self.infer, self.cluster, self.push) if part is not None]
        return round(sum(known), 1) if self.rounds and known else None


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What ``groundswell round`` would do.

    Attributes
    ----------
    round : number of the round that would be worked on; None: nothing can be done
    trains : whether a training would run, and ``why``, or why not
    paused : the text of a pause, which refuses rounds
    changed : tasks that Label Studio changed since the last look; they would be read first
    newly_finished : those of them that somebody finished and the store does not know as finished
    train_tasks, test_tasks : finished tasks that the training would learn from and be measured on, about
    infer_tasks : tasks that the model would look at
    questions : most questions that would be asked at once; 0: none is wanted now
    forecast : what the last look expected of further answers; None where nothing is known
    push_add, push_replace : predictions to be sent anew, and to be replaced one by one
    push_version : the version they would be shown under; "" while a training decides about it
    waiting : predictions of the present round that were not sent yet, added and replaced ones; the worker
        sends them at its next look, round or not
    withdrawn : predictions of Groundswell that would be deleted, by version
    minutes : how long it would take
    """

    project_id: int
    round: int | None
    trains: bool
    why: str
    paused: str
    changed: int
    newly_finished: int
    train_tasks: int
    test_tasks: int
    infer_tasks: int
    questions: int
    forecast: dict[str, Any] | None
    push_add: int
    push_replace: int
    push_version: str
    waiting: tuple[int, int]
    withdrawn: dict[str, int]
    minutes: Minutes


def plan_round(project: OpenProject) -> RoundPlan:
    """Work out what ``look(project, force_round=True)`` would do. Raises what reading raises."""
    row = project.studio.project(project.id)
    project = replace(project, config=parse_label_config(row.label_config))
    db, settings, paths = project.db, project.settings, project.paths
    paused = wishes_of(db).paused
    changes = _changes(project)
    newly = changes.finished
    finished = finished_digests(db)
    newest, served = current_round(db), trained_round(db)
    trains, why, number = _training(project, newest, len(finished), newly)
    split = newest_split(db)
    together = len(finished) + newly
    if split is None:
        test = min(max(settings.test_min, math.ceil(settings.test_fraction * together)), together // 2)
    else:
        test = len(split.tasks & finished.keys())
    unfinished = max(0, len(open_task_ids(db)) + changes.opened)
    plan = None if served is None else _expected(project, served)
    held = {
        version: count
        for version, count in project.studio.prediction_versions(project.id).items()
        if version.startswith(version_prefix(project.id))
    }
    record = None if trains else served
    if trains:
        infer, add, replaced, version = unfinished + test, unfinished, 0, ""
    elif record is None or plan is None:
        infer, add, replaced, version = 0, 0, 0, ""
    else:
        infer = len(tasks_to_infer(db, paths, project.memo, record))
        add, replaced, version = len(plan.add), len(plan.replace), plan.version
        if not has_finished(record, "infer"):
            add = unfinished
    asks = (trains or record is not None) and not paused
    return RoundPlan(
        project_id=project.id,
        round=number,
        trains=trains,
        why=why,
        paused="" if not paused else PAUSE_TEXTS[paused],
        changed=changes.tasks,
        newly_finished=newly,
        train_tasks=together - test if trains else 0,
        test_tasks=test if trains else 0,
        infer_tasks=infer,
        questions=_questions(project, record) if asks else 0,
        forecast=None if record is None else dict(record.figures.get("review", {})).get("forecast"),
        push_add=add,
        push_replace=replaced,
        push_version=version,
        waiting=(0, 0) if plan is None else (len(plan.add), len(plan.replace)),
        withdrawn={} if not (trains or version) else {v: n for v, n in sorted(held.items()) if v != version},
        minutes=_minutes(db, trains=trains, infer=infer, push=add + replaced, record=record),
    )


def _expected(project: OpenProject, record: RoundRecord) -> PushPlan:
    """What the next push of a trained round would send."""
    config = as_trained(project.config, project.paths, project.memo, record)
    return expected_push(project.db, config, project.settings, project.paths, project.memo, record)


@dataclass(frozen=True, slots=True)
class _Changes:
    """Tasks that changed in Label Studio, those newly finished, and how many more are unfinished now."""

    tasks: int
    finished: int
    opened: int


def _changes(project: OpenProject) -> _Changes:
    """What Label Studio holds that the store has not read."""
    with project.db.read() as session:
        watermark = session.get_one(ProjectRecord, project.id).watermark
        known = {
            task: (finished, changed_at)
            for task, finished, changed_at in session.execute(
                select(TaskRecord.id, TaskRecord.finished, TaskRecord.updated_at).where(
                    TaskRecord.project_id == project.id
                )
            )
        }
    changed = newly = opened = 0
    for task in project.studio.tasks(project.id, changed_since=watermark):
        was_finished, changed_at = known.get(task.id, (False, None))
        if changed_at == task.updated_at:
            continue
        is_finished = any(not annotation.was_cancelled for annotation in task.annotations)
        changed += 1
        newly += is_finished and not was_finished
        was_open = task.id in known and not was_finished
        opened += int(not is_finished) - int(was_open)
    return _Changes(changed, newly, opened)


def _training(
    project: OpenProject, newest: RoundRecord | None, finished: int, newly: int
) -> tuple[bool, str, int | None]:
    """Whether a training would run, why (not), and the number of the round worked on."""
    begun = newest is not None and not given_up(newest) and not has_finished(newest, "push")
    if newest is not None and begun:
        if not has_finished(newest, "train"):
            return (
                True,
                f"the training of round {newest.number} was begun and is finished first",
                newest.number,
            )
        return False, f"round {newest.number} is trained and is finished first", newest.number
    number = 1 if newest is None else newest.number + 1
    if not finished + newly:
        return False, "nobody has finished a task yet", None
    due = training_due(project.db, project.config, project.settings, project.paths, project.memo)
    if due:
        return True, due, number
    if newest is not None and is_early(newest):
        return True, f"the whole training after the early round {newest.number}", number
    return True, f"asked for, with {finished + newly} finished tasks", number


def _questions(project: OpenProject, record: RoundRecord | None) -> int:
    """Most questions that would be asked at once."""
    if record is not None and record.review_done:
        return 0
    batch, budget = project.settings.question_batch, project.settings.question_budget
    return batch if budget is None else min(batch, budget)


def _minutes(db: ProjectStore, *, trains: bool, infer: int, push: int, record: RoundRecord | None) -> Minutes:
    """From whole rounds before: the last training as it was, the other steps by the piece."""
    query = select(RoundRecord).where(RoundRecord.project_id == db.id).order_by(RoundRecord.number.desc())
    with db.read() as session:
        rounds = [one for one in session.scalars(query) if has_finished(one, "infer")]
    whole = [one for one in rounds if not is_early(one)] or rounds

    def seconds(step: str) -> list[tuple[float, dict[str, Any]]]:
        told = [one.figures.get(step, {}) for one in whole]
        return [(float(values["seconds"]), values) for values in told if "seconds" in values]

    def by_the_piece(step: str, pieces: str, count: int) -> float | None:
        known = [(spent, float(values.get(pieces, 0) or 0)) for spent, values in seconds(step)]
        spent, done = sum(one[0] for one in known), sum(one[1] for one in known)
        return _in_minutes(spent / done * count) if done else None

    trained, clustered = seconds("train"), seconds("cluster")
    must_cluster = trains or (record is not None and not has_finished(record, "cluster"))
    return Minutes(
        train=(_in_minutes(trained[0][0]) if trained else None) if trains else 0.0,
        infer=by_the_piece("infer", "tasks", infer) if infer else 0.0,
        cluster=(_in_minutes(clustered[0][0]) if clustered else None) if must_cluster else 0.0,
        push=by_the_piece("push", "sent", push) if push else 0.0,
        rounds=len(whole),
    )


def _in_minutes(seconds: float) -> float:
    return round(seconds / 60.0, 2)
