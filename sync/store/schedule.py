"""The schedule: which job of which project is due next, and who takes it.

A project has two jobs. ``sync`` is a look at it: it comes again every few seconds, sooner when something
happened. ``train`` is the training of a round that a look began: it comes when a look calls for it. Each is
done under a lease of its own, so training and looks go on side by side, on one machine or on several.

A worker asks for the job that has waited longest. Within one transaction it takes the job's row, skipping
rows that another worker is just taking, and the lease. So many workers share many projects without asking
each other. All times are those of the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from sqlalchemy import Select, delete, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ml_backend.artifacts.inbox import mark_dirty
from sync.settings import Settings
from sync.store.database import Store, database_now
from sync.store.lease import (
    Lease,
    lease_name,
    project_lease,
    seconds,
    take_row,
    training_lease,
    training_lease_name,
)
from sync.store.tables import JobRecord, LeaseRecord, ProjectRecord

__all__ = ["KINDS", "LONGEST_S", "Claim", "Kind", "Schedule", "call_look", "forget_jobs", "wake_worker"]

Kind = Literal["sync", "train"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_NAMES: Final = {"sync": lease_name, "train": training_lease_name}
_LEASES: Final = {"sync": project_lease, "train": training_lease}
LONGEST_S: Final = 3600.0
"""seconds that a job waits at most, unless ``poll_s`` is longer"""
_GRACE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that was taken, with its lease, which gives signs of life until it is released.

    ``next_at`` is when it would come again if nothing more were said about it.
    """

    kind: Kind
    project_id: int
    lease: Lease
    next_at: datetime


class Schedule:
    """The jobs of all projects, as one worker sees them.

    Parameters
    ----------
    store, settings : the database; times of leases
    holder : name of the worker, for the leases
    only : numbers of the projects that the worker takes; None = all
    """

    def __init__(
        self, store: Store, settings: Settings, holder: str, *, only: Collection[int] | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._holder = holder
        self._only = None if only is None else sorted(only)
        self._ttl = timedelta(seconds=settings.lease_ttl_s)

    def claim(self, kind: Kind) -> Claim | None:
        """Take the job of this kind that has been due for longest; None when none is due and free.

        Unless somebody says otherwise it is due again after ``poll_s`` seconds. Raises StorageError.
        """
        with self._store.read() as session:  # a worker with nothing to do locks nothing
            if session.scalar(self._due(kind, database_now(session))) is None:
                return None
        asked_at = seconds()
        try:
            with self._store.write(shared=True) as session:
                now = database_now(session)
                job = session.scalar(self._due(kind, now).with_for_update(skip_locked=True))
                if job is None:
                    return None
                fence = take_row(session, job.name, self._holder, now, self._ttl, again=False)
                if fence is None:
                    return None
                next_at = job.next_at = now + timedelta(seconds=self._settings.poll_s)
                project_id = job.project_id
        except IntegrityError:
            return None  # another worker made the row of the lease in the same moment
        lease = _LEASES[kind](self._store, self._settings, project_id, self._holder)
        lease.adopt(fence, asked_at)
        return Claim(kind, project_id, lease, next_at)

    def _due(self, kind: Kind, now: datetime) -> Select[JobRecord]:
        # what is further ahead than any job is put off was written under a clock that was wrong
        ahead = now + timedelta(seconds=max(LONGEST_S, self._settings.poll_s) + _GRACE_S)
        held = select(LeaseRecord.name).where(
            LeaseRecord.name == JobRecord.name,
            LeaseRecord.holder != "",
            LeaseRecord.heartbeat_at.between(now - self._ttl, now + self._ttl),
        )
        is_due = or_(JobRecord.next_at <= now, JobRecord.next_at > ahead)
        due = select(JobRecord).where(JobRecord.kind == kind, is_due, ~held.exists())
        if self._only is not None:
            due = due.where(JobRecord.project_id.in_(self._only))
        return due.order_by(JobRecord.next_at, JobRecord.name).limit(1)

    def conclude(self, claim: Claim, *, again_s: float | None) -> None:
        """Say when the job is due again: ``again_s`` seconds from now; None: when somebody calls for it.

        Whoever called for it meanwhile is heeded. Call it before the lease is released. Raises StorageError.
        """
        with self._store.write(shared=True) as session:
            next_at = None if again_s is None else database_now(session) + timedelta(seconds=again_s)
            session.execute(
                update(JobRecord)
                .where(JobRecord.name == _NAMES[claim.kind](claim.project_id))
                .where(JobRecord.next_at == claim.next_at)
                .values(next_at=next_at)
            )

    def call(self, kind: Kind, project_id: int) -> None:
        """Let the job be due now; of a training that waits for another try, nothing changes. Idempotent."""
        name = _NAMES[kind](project_id)
        with self._store.write(shared=True) as session:
            now = database_now(session)
            later = JobRecord.next_at > now if kind == "sync" else JobRecord.next_at.is_(None)
            session.execute(
                update(JobRecord)
                .where(JobRecord.name == name, or_(later, JobRecord.next_at.is_(None)))
                .values(next_at=now)
            )

    def fill(self) -> Sequence[int]:
        """Make the rows of projects that have none, as after a registration; they are due at once.

        Returns the numbers of the projects that the worker takes.
        """
        projects = self.projects()
        wanted = {_NAMES[kind](project_id): (kind, project_id) for kind in KINDS for project_id in projects}
        with self._store.read() as session:
            known = set(session.scalars(select(JobRecord.name)))
        missing = [name for name in wanted if name not in known]
        if not missing:
            return projects
        with self._store.write() as session:  # alone: two workers may see the same gap
            now = database_now(session)
            known = set(session.scalars(select(JobRecord.name)))
            here = set(session.scalars(select(ProjectRecord.id)))  # one may have left meanwhile
            for name in missing:
                kind, project_id = wanted[name]
                if name not in known and project_id in here:
                    session.add(JobRecord(name=name, project_id=project_id, kind=kind, next_at=now))
        return projects

    def projects(self) -> Sequence[int]:
        """Numbers of the projects that the worker takes, in order."""
        query = select(ProjectRecord.id).order_by(ProjectRecord.id)
        if self._only is not None:
            query = query.where(ProjectRecord.id.in_(self._only))
        with self._store.read() as session:
            return list(session.scalars(query))


def call_look(session: Session, project_id: int) -> None:
    """Let the next look at a project be due now, in a transaction of the store."""
    session.execute(
        update(JobRecord)
        .where(JobRecord.name == lease_name(project_id))
        .values(next_at=database_now(session))
    )


def wake_worker(settings: Settings, store: Store, project_id: int, why: str) -> None:
    """Let the next look at a project be due now, on whatever machine its worker runs.

    A worker of this machine sees the note in the data directory, others ask the database every second.
    """
    with store.write(shared=True) as session:
        call_look(session, project_id)
    mark_dirty(settings.data_dir, project_id, why)


def forget_jobs(session: Session, project_id: int) -> None:
    """Take the jobs of a project out of the schedule, in a transaction of the store."""
    session.execute(delete(JobRecord).where(JobRecord.project_id == project_id))
