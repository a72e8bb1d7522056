"""What happens in a project right now: who works, which step, how far, and about how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from sqlalchemy import select

from ml_backend.artifacts.paths import ProjectPaths
from sync.rounds.early import given_up, is_early
from sync.rounds.live_progress import LiveProgress, read_progress
from sync.settings import Settings
from sync.store.database import Store, database_now
from sync.store.lease import lease_name, training_lease_name
from sync.store.round_state import STEPS
from sync.store.tables import LeaseRecord, ProjectRecord, RoundRecord

__all__ = ["SHOWN_STEPS", "LiveState", "StepState", "live_state"]

SHOWN_STEPS = ("train", "infer", "cluster", "review", "push")
_LEAST_SHARE, _LEAST_S = 0.02, 2.0
"""of a step that must have passed before its own pace says anything"""
_ROUNDS = 12
"""newest rounds whose times say how long the present one takes"""
_TO_SHOWN = ("train", "infer", "push")
"""what must be done before people see a new version's predictions"""


@dataclass(frozen=True, slots=True)
class StepState:
    """A step of the newest round; ``state`` is done, now, asking (people are asked), failed or next."""

    name: str
    state: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class LiveState:
    """What changes every second.

    Attributes
    ----------
    at_work : a worker looks at the project or trains for it, and gives signs of life
    silent_s : since its last sign of life; None when nobody holds the project
    interrupted : a worker stopped in the middle of a step, and nobody went on yet
    step, share, line : what it does, and how far it is; empty between looks. While a training goes on beside
        looks, it is what is told
    elapsed_s : since the step began
    left_s : about how long until the predictions of this round are shown, or the step is over; None: unknown
    left_from : what that estimate rests on
    round : number of the newest round, 0 before the first
    steps : its steps
    paused : empty, ``asking`` or ``all``
    wanted : what somebody asked the worker to do next, in words
    """

    at_work: bool
    silent_s: float | None
    interrupted: bool
    step: str
    share: float
    line: str
    elapsed_s: float
    left_s: float | None
    left_from: str
    round: int
    version: str
    steps: tuple[StepState, ...]
    paused: str
    wanted: tuple[str, ...]


def live_state(settings: Settings, store: Store, project: ProjectRecord) -> LiveState:
    """The state of a project now; reads two rows and two small files."""
    paths = ProjectPaths(settings.data_dir, project.id)
    with store.read() as session:
        now = database_now(session)
        jobs = [
            _job(session.get(LeaseRecord, lease), read_progress(noted), now, settings.lease_ttl_s)
            for lease, noted in (
                (training_lease_name(project.id), paths.training_progress),
                (lease_name(project.id), paths.progress),
            )
        ]
        mine = select(RoundRecord).where(RoundRecord.project_id == project.id)
        newest_first = mine.order_by(RoundRecord.number.desc()).limit(_ROUNDS)
        rounds = list(session.scalars(newest_first))[::-1]
    silent = min((job.silent_s for job in jobs if job.silent_s is not None), default=None)
    running = next((job.running for job in jobs if job.running is not None), None)
    newest = rounds[-1] if rounds else None
    left, left_from = (None, "") if running is None else _left(running, rounds, time.time())
    return LiveState(
        at_work=any(job.at_work for job in jobs),
        silent_s=None if silent is None else round(silent, 1),
        interrupted=any(job.interrupted for job in jobs),
        step="" if running is None else running.step,
        share=0.0 if running is None else round(min(max(running.share, 0.0), 1.0), 3),
        line="" if running is None else running.line,
        elapsed_s=0.0 if running is None else round(max(0.0, time.time() - running.step_began), 1),
        left_s=None if left is None else round(left, 1),
        left_from=left_from,
        round=0 if newest is None else newest.number,
        version="" if newest is None else newest.model_version,
        steps=() if newest is None else _steps(newest, running),
        paused=project.paused,
        wanted=_wanted(project, newest),
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """Looks or training: seconds since the holder's last sign of life, and what it does."""

    silent_s: float | None
    at_work: bool
    running: LiveProgress | None
    interrupted: bool


def _job(lease: LeaseRecord | None, noted: LiveProgress | None, now: datetime, ttl_s: float) -> _Job:
    holder = "" if lease is None else lease.holder
    silent = None if lease is None or not holder else max(0.0, (now - lease.heartbeat_at).total_seconds())
    at_work = silent is not None and silent < ttl_s
    busy = noted if noted is not None and noted.step else None
    running = busy if busy is not None and at_work and busy.worker == holder else None
    return _Job(silent, at_work, running, busy is not None and not at_work)


def _steps(record: RoundRecord, running: LiveProgress | None) -> tuple[StepState, ...]:
    reached = STEPS.index(record.step)
    found = []
    for name in SHOWN_STEPS:
        figures = record.figures.get(name, {})
        if running is not None and running.step == name:
            state = "now"
        elif name == "train" and record.failed and reached == 0:
            state = "failed"
        elif name == "review" and reached >= STEPS.index("review") and not record.review_done:
            state = "asking"
        elif STEPS.index(name) <= reached or (name == "push" and record.pushed):
            state = "done"
        else:
            state = "next"
        found.append(StepState(name, state, figures.get("seconds")))
    return tuple(found)


def _left(running: LiveProgress, rounds: Sequence[RoundRecord], now: float) -> tuple[float | None, str]:
    """Seconds until people see this round's predictions, or the step is over; and on what that rests."""
    usual = _usual_seconds(rounds)
    elapsed = max(0.0, now - running.step_began)
    reasons = []
    if running.share >= _LEAST_SHARE and elapsed >= _LEAST_S:
        left = elapsed * (1.0 - running.share) / running.share
        reasons.append("the pace of this step")
    elif running.step in usual:
        left = max(0.0, usual[running.step] - elapsed)
    else:
        return None, ""
    after: tuple[str, ...] = ()
    if running.step in _TO_SHOWN:
        after = _TO_SHOWN[_TO_SHOWN.index(running.step) + 1 :]
    known = [usual[name] for name in after if name in usual]
    if known or not reasons:
        reasons.append("earlier rounds")
    if len(known) < len(after):
        reasons.append("without the steps after it")
    return left + sum(known), ", ".join(reasons)


def _usual_seconds(rounds: Sequence[RoundRecord]) -> dict[str, float]:
    """Median seconds of each step in earlier rounds that trained to the end."""
    spent: dict[str, list[float]] = {}
    for record in rounds[:-1]:
        if record.origin != "trained" or is_early(record) or given_up(record) or record.failed:
            continue
        for name in SHOWN_STEPS:
            seconds = record.figures.get(name, {}).get("seconds")
            if seconds is not None:
                spent.setdefault(name, []).append(float(seconds))
    return {name: float(median(values)) for name, values in spent.items()}


def _wanted(project: ProjectRecord, newest: RoundRecord | None) -> tuple[str, ...]:
    found = []
    wanted = project.round_wanted
    if wanted is not None and (newest is None or newest.started_at < wanted):
        found.append(f"a round was asked for at {wanted:%H:%M} UTC and has not begun")
    if version := project.version_wanted:
        found.append(f"{version} is to serve again")
    return tuple(found)
