"""The worker: looks at projects, finds what is missing, and does it, one project at a time under a lease.

A look compares Label Studio, the store and the data directory and takes the steps of the round that are
missing: pull → train → infer → cluster → review → push. Nothing is remembered outside of those three, so a
worker may be killed at any instruction and another simply looks again. A webhook only touches a file that
shortens the wait for the next look.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ml_backend.errors import GroundswellError, LeaseLost, ModelError
from ml_backend.images import ImageStore
from ml_backend.inbox import last_notice
from sync.lease import Lease, worker_name
from sync.project_facts import write_facts
from sync.project_state import Project, Report, open_project, project_ids
from sync.settings import Settings
from sync.steps.clicks import prepare_clicks
from sync.steps.cluster import cluster
from sync.steps.infer import infer, tasks_to_infer
from sync.steps.pull import PullReport, pull, refresh_project
from sync.steps.push import PushReport, push, push_version
from sync.steps.review import ReviewReport, review
from sync.steps.rounds import current_round, has_finished, reload_round, trained_round
from sync.steps.train import is_retry_due, start_round, train, training_due
from sync.store import Store, utc_now
from sync.studio_base import StudioClient
from sync.tables import ProjectRecord, RoundRecord

__all__ = ["LookReport", "Stopped", "Worker", "review_tick", "run_round"]

_log = logging.getLogger(__name__)


_WAITING = ("train.start", "train.progress", "clicks.progress")


class Stopped(Exception):
    """The worker was asked to stop; raised at the next boundary inside a step."""


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


class Worker:
    """Looks at projects until told to stop.

    Parameters
    ----------
    settings, store, studio : see ``open_project``
    review_studio : Label Studio of the review projects, when it is another one
    only : these projects only; None = all that take part
    report : called as ``report(project, step, share, text)``
    checkpoint : called with the name of every boundary (tests)
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        studio: StudioClient,
        *,
        review_studio: StudioClient | None = None,
        only: Sequence[int] | None = None,
        report: Callable[[int, str, float, str], None] = lambda project, step, share, text: None,
        checkpoint: Callable[[str], None] = lambda place: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._studio = studio
        self._review_studio = review_studio
        self._only = only
        self._report = report
        self._checkpoint = checkpoint
        self._images = ImageStore(settings)
        self._name = worker_name()
        self._stop = threading.Event()
        self._memo: dict[object, object] = {}
        self._waits = False

    def stop(self, *_: object) -> None:
        """Ask the worker to stop at the next boundary (also a signal handler)."""
        self._stop.set()

    def install_signal_handlers(self) -> None:
        """SIGTERM and SIGINT stop at the next boundary, and at once while a training process is waited for.

        What is under way is taken up by the next worker. To be called in the main thread.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._stop.set()
        if self._waits:
            self._waits = False
            raise Stopped("stopped while training; the next worker trains the same snapshot")

    def run(self) -> None:
        """Look at all projects again and again until stopped."""
        while not self._stop.is_set():
            looked_at = time.time()
            self.look_at_all()
            self._wait(looked_at)

    def look_at_all(self) -> list[LookReport]:
        """One look at every project, in random order so that none starves; errors of one spare the others."""
        ids = list(self._only) if self._only is not None else project_ids(self._store)
        random.shuffle(ids)
        reports = []
        for project_id in ids:
            if self._stop.is_set():
                break
            found = self.look(project_id)
            if found is not None:
                reports.append(found)
        return reports

    def look(self, project_id: int, *, force_round: bool = False) -> LookReport | None:
        """One look at one project; None when another worker holds it. Deliberate errors end in the report."""
        self._waits = False
        try:
            with self._opened(project_id) as project:
                if project is None:
                    return None
                found = look(project, force_round=force_round)
                _note_error(self._store, project_id, found.error)
                return found
        except (LeaseLost, Stopped) as error:
            _log.info("project %s: %s", project_id, error)
            return LookReport(project_id, error=str(error))
        except GroundswellError as error:
            _log.error("project %s: %s", project_id, error)
            self._report(project_id, "error", 1.0, str(error))
            _note_error(self._store, project_id, str(error))
            return LookReport(project_id, error=str(error))
        except Exception as error:
            # a bug met in one project must not stop the work on the others; it is shown, not hidden
            _log.exception("project %s: unexpected error", project_id)
            text = f"unexpected {type(error).__name__}: {error}"
            self._report(project_id, "error", 1.0, text)
            _note_error(self._store, project_id, text)
            return LookReport(project_id, error=text)

    @contextmanager
    def _opened(self, project_id: int) -> Iterator[Project | None]:
        lease = Lease(
            self._store,
            f"project/{project_id}",
            self._name,
            ttl_s=self._settings.lease_ttl_s,
            heartbeat_s=self._settings.heartbeat_s,
        )
        if not lease.acquire():
            yield None
            return
        with lease:
            yield open_project(
                self._settings,
                self._store,
                self._studio,
                project_id,
                review_studio=self._review_studio,
                images=self._images,
                lease=lease,
                report=self._reporter(project_id),
                checkpoint=self._at,
                memo=self._memo,
            )

    def _reporter(self, project_id: int) -> Report:
        return lambda step, share, text: self._report(project_id, step, share, text)

    def _at(self, place: str) -> None:
        # between these boundaries nothing happens here but reading what the training process says
        self._waits = place in _WAITING
        self._checkpoint(place)
        if self._stop.is_set():
            raise Stopped(f"stopped at {place}; the next worker goes on from here")

    def _wait(self, looked_at: float) -> None:
        """Sleep until the next look, or until a webhook says that something happened."""
        until = time.monotonic() + self._settings.poll_s
        while not self._stop.is_set() and time.monotonic() < until:
            if any(
                (last_notice(self._settings.data_dir, project_id) or 0.0) > looked_at
                for project_id in project_ids(self._store)
            ):
                return
            self._stop.wait(min(0.2, self._settings.poll_s))


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


def _note_error(store: Store, project_id: int, text: str) -> None:
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
    if record is None or record.error == text:
        return
    with store.write() as session:
        session.get_one(ProjectRecord, project_id).error = text
