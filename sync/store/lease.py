"""Leases: one worker per job of a project at a time, with heartbeat and fencing number.

A project has two jobs: looks (``project/7``) and training (``project/7/train``), see ``sync.store.schedule``.

The holder gives signs of life (the heartbeat); a worker that died gives none. After ``ttl_s`` seconds without
one another worker may take over, and gets a higher fencing number. If the first was only slow, its next write
sees the higher number and stops with LeaseLost, so it writes nothing into the store. Files are renamed into
place inside such a write (``ProjectStore.write`` as guard), so it writes nothing into the data directory
either.

Times in the store are those of the database's clock. With its own clock, a worker measures the time since its
own last sign of life. After ``ttl_s`` seconds it counts its lease as lost, also when it cannot ask the
database.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ml_backend.errors import BadInput, GroundswellError, LeaseLost
from sync.settings import Settings
from sync.store.database import Fence, Store, database_now
from sync.store.tables import LeaseRecord

__all__ = [
    "Lease",
    "hold_project",
    "lease_name",
    "project_lease",
    "seconds",
    "take_row",
    "training_lease",
    "training_lease_name",
    "worker_name",
]

_log = logging.getLogger(__name__)


def seconds() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def worker_name() -> str:
    """A name for this worker: host, process, and a random part (process ids come round again)."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def take_row(
    session: Session, name: str, holder: str, now: datetime, ttl: timedelta, *, again: bool = True
) -> Fence | None:
    """Take the row of a lease within a transaction; None when another holds it and gives signs of life.

    Without ``again`` that is also so when it is ``holder`` itself, for whom another thread may hold it. A
    sign from the future was given under a clock that was wrong; a holder that lives corrects it soon.

    Raises IntegrityError when another worker makes the row in the same moment.
    """
    row = session.scalar(select(LeaseRecord).where(LeaseRecord.name == name).with_for_update())
    if row is None:
        # Numbers begin at the time: a backup may be older than this row, and after a restore the row is made
        # anew. Then none of its numbers may be one that a worker of before still holds.
        row = LeaseRecord(name=name, holder="", fence=int(now.timestamp()), heartbeat_at=now)
        session.add(row)
    is_free = row.holder == "" or (again and row.holder == holder)
    if not is_free:
        if abs(now - row.heartbeat_at) < ttl:
            return None
        _log.warning("%s: taking over from %s, silent since %s", name, row.holder, row.heartbeat_at)
    row.holder = holder
    row.fence += 1
    row.heartbeat_at = now
    session.flush()
    return Fence(name, row.fence)


class Lease:
    """A lease on ``name``, taken with ``acquire`` and kept by a heartbeat thread until ``release``.

    Parameters
    ----------
    store : where the row lives
    name : what is held, e.g. ``project/7``
    holder : who holds it
    ttl_s : seconds of silence after which another worker may take over
    heartbeat_s : seconds between signs of life; 0 = no thread (call ``beat`` yourself)
    now : the clock that all holders share; by default that of the database
    seconds : a clock of this process that never goes back
    """

    def __init__(
        self,
        store: Store,
        name: str,
        holder: str,
        *,
        ttl_s: float,
        heartbeat_s: float,
        now: Callable[[Session], datetime] = database_now,
        seconds: Callable[[], float] = seconds,
    ) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._ttl = timedelta(seconds=ttl_s)
        self._heartbeat_s = heartbeat_s
        self._now = now
        self._seconds = seconds
        self._beaten_at = 0.0
        self._fence: Fence | None = None
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the lease if it is free, ours, or silent for too long. Returns False when another holds it."""
        try:
            if not self._take():
                return False
        except IntegrityError:
            return False  # another worker made the row in the same moment
        self._begin()
        return True

    def adopt(self, fence: Fence, asked_at: float) -> None:
        """Keep a lease that was taken for us in another transaction, which began at ``asked_at``
        (``lease.seconds``).
        """
        self._fence, self._beaten_at = fence, asked_at
        self._begin()

    def _begin(self) -> None:
        self._lost.clear()
        self._stop.clear()
        if self._heartbeat_s > 0:
            self._thread = threading.Thread(target=self._keep, name=f"lease {self._name}", daemon=True)
            self._thread.start()

    def _take(self) -> bool:
        asked_at = self._seconds()
        with self._store.write() as session:
            fence = take_row(session, self._name, self._holder, self._now(session), self._ttl)
        if fence is None:
            return False
        self._fence, self._beaten_at = fence, asked_at
        return True

    @property
    def fence(self) -> Fence:
        """The fence that writes to the store must carry. Raises LeaseLost when it is not certainly ours."""
        fence = self._held()
        silent_s = self._seconds() - self._beaten_at
        if silent_s >= self._ttl.total_seconds():
            raise LeaseLost(
                f"lease {self._name} has run out: no sign of life reached the store for {silent_s:.0f} s",
                hint="Another worker may hold it now; the next look starts anew",
            )
        return fence

    def _held(self) -> Fence:
        if self._fence is None or self._lost.is_set():
            raise LeaseLost(f"lease {self._name} is not held by this worker")
        return self._fence

    def check(self) -> None:
        """Raise LeaseLost when another holds the lease, or when ``ttl_s`` passed without a sign of life."""
        _ = self.fence

    def holder(self) -> str:
        """Who holds the lease, as far as the store knows; empty when nobody does."""
        with self._store.read() as session:
            row = session.get(LeaseRecord, self._name)
        return "" if row is None else row.holder

    def beat(self) -> None:
        """Give a sign of life. Raises LeaseLost when another worker took over."""
        fence = self._held()
        asked_at = self._seconds()
        with self._store.write(fence) as session:
            session.get_one(LeaseRecord, self._name).heartbeat_at = self._now(session)
        self._beaten_at = asked_at

    def release(self) -> None:
        """Stop the heartbeat and leave the lease to others at once. Does nothing when it was lost."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._fence is None:
            return
        with self._store.write(shared=True) as session:
            row = session.get(LeaseRecord, self._name, with_for_update=True)
            if row is not None and row.fence == self._fence.number:
                row.holder = ""
        self._fence = None

    def _keep(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                self.beat()
            except LeaseLost as error:
                _log.error("%s", error)
                self._lost.set()
                return
            except GroundswellError as error:
                # a later beat may still come through in time
                _log.warning("%s: heartbeat failed: %s", self._name, error)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lease_name(project_id: int) -> str:
    """What the lease of looks at a project is called in the store."""
    return f"project/{project_id}"


def training_lease_name(project_id: int) -> str:
    """What the lease of a project's training is called in the store."""
    return f"{lease_name(project_id)}/train"


def project_lease(store: Store, settings: Settings, project_id: int, holder: str = "") -> Lease:
    """The lease of looks at a project, not yet taken; ``holder`` is this process unless it is named.

    Its holder alone writes what Label Studio holds and what is shown there: tasks, answers, verdicts, pools.
    """
    return _lease(store, settings, lease_name(project_id), holder)


def training_lease(store: Store, settings: Settings, project_id: int, holder: str = "") -> Lease:
    """The lease of a project's training, not yet taken.

    Its holder alone changes the row of a round that has no model yet, and the folder of model versions.
    """
    return _lease(store, settings, training_lease_name(project_id), holder)


def _lease(store: Store, settings: Settings, name: str, holder: str) -> Lease:
    return Lease(
        store, name, holder or worker_name(), ttl_s=settings.lease_ttl_s, heartbeat_s=settings.heartbeat_s
    )


@contextmanager
def hold_project(store: Store, settings: Settings, project_id: int) -> Iterator[tuple[Lease, Lease]]:
    """The leases of a project, for looks and for training: no worker works on it meanwhile.

    Raises BadInput when one does.
    """
    look, training = (make(store, settings, project_id) for make in (project_lease, training_lease))
    with _taken(look, settings, project_id, "works on"), _taken(training, settings, project_id, "trains"):
        yield look, training


def _taken(lease: Lease, settings: Settings, project_id: int, does: str) -> Lease:
    if not lease.acquire():
        raise BadInput(
            f"worker {lease.holder()} {does} project {project_id} now",
            field="project",
            hint="Try again when it is done, or stop it; one that was killed counts as stopped after "
            f"{settings.lease_ttl_s:g} s",
        )
    return lease
