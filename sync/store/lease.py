"""Leases: one worker per project at a time, with heartbeat and fencing number.

A worker that dies stops beating; after ``ttl_s`` another may take over and gets a higher fencing number. If
the first was only slow, its next write sees the number and stops with LeaseLost: nothing of it reaches the
store.
Clocks of workers on several machines must agree to well below ``ttl_s``.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from ml_backend.errors import GroundswellError, LeaseLost
from sync.store.database import Fence, Store, utc_now
from sync.store.tables import LeaseRecord

__all__ = ["Lease", "worker_name"]

_log = logging.getLogger(__name__)


def worker_name() -> str:
    """A name for this worker: host, process, and a random part (process ids come round again)."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Lease:
    """A lease on ``name``, taken with ``acquire`` and kept by a heartbeat thread until ``release``.

    Parameters
    ----------
    store : where the row lives
    name : what is held, e.g. ``project/7``
    holder : who holds it
    ttl_s : seconds of silence after which another worker may take over
    heartbeat_s : seconds between signs of life; 0 = no thread (call ``beat`` yourself)
    now : the clock
    """

    def __init__(
        self,
        store: Store,
        name: str,
        holder: str,
        *,
        ttl_s: float,
        heartbeat_s: float,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._ttl = timedelta(seconds=ttl_s)
        self._heartbeat_s = heartbeat_s
        self._now = now
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
        self._lost.clear()
        self._stop.clear()
        if self._heartbeat_s > 0:
            self._thread = threading.Thread(target=self._keep, name=f"lease {self._name}", daemon=True)
            self._thread.start()
        return True

    def _take(self) -> bool:
        now = self._now()
        with self._store.write() as session:
            row = session.scalar(select(LeaseRecord).where(LeaseRecord.name == self._name).with_for_update())
            if row is None:
                row = LeaseRecord(name=self._name, holder="", fence=0, heartbeat_at=now)
                session.add(row)
            elif row.holder not in ("", self._holder) and now - row.heartbeat_at < self._ttl:
                return False
            if row.holder not in ("", self._holder):
                _log.warning(
                    "%s: taking over from %s, silent since %s", self._name, row.holder, row.heartbeat_at
                )
            row.holder = self._holder
            row.fence += 1
            row.heartbeat_at = now
            self._fence = Fence(self._name, row.fence)
        return True

    @property
    def fence(self) -> Fence:
        """What store writes must carry. Raises LeaseLost when the lease is not held."""
        if self._fence is None or self._lost.is_set():
            raise LeaseLost(f"lease {self._name} is not held by this worker")
        return self._fence

    def check(self) -> None:
        """Raise LeaseLost when the heartbeat found another holder. Call before writing outside the store."""
        _ = self.fence

    def beat(self) -> None:
        """Give a sign of life. Raises LeaseLost when another worker took over."""
        fence = self.fence
        with self._store.write(fence) as session:
            row = session.get_one(LeaseRecord, self._name)
            row.heartbeat_at = self._now()

    def release(self) -> None:
        """Stop the heartbeat and leave the lease to others at once. Does nothing when it was lost."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._fence is None:
            return
        with self._store.write() as session:
            row = session.get(LeaseRecord, self._name)
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
                # a busy or full disk now need not mean a lost lease; the fence decides at the next write
                _log.warning("%s: heartbeat failed: %s", self._name, error)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
