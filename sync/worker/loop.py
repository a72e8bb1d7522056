"""The worker: finds what is missing in each project and does it, each job of a project under its own lease.

A *look* is one pass over a project. It compares Label Studio, the store and the data directory, and takes the
steps of the round that are missing: pull → train → infer → cluster → review → push. Everything is kept in
those three places. So a worker may be killed at any moment, and the next one simply looks again.

A worker that runs on and on (``run``) leaves training to a job of its own: a thread takes looks, another
one trains what looks have begun. A single look (``look``) waits for its training.
"""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Final

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import GroundswellError, LeaseLost, StorageError, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.log_fields import set_log_fields
from sync.artifacts.opening import delete_left_over, objects_of
from sync.artifacts.shared import SharedFiles
from sync.artifacts.staging import remove_abandoned
from sync.review.flush import flush
from sync.review.outbox import QUESTIONS, Mode
from sync.review.review_project import installation_id
from sync.rounds.click_training import ClickTraining
from sync.rounds.live_progress import ProgressFile
from sync.rounds.progress import Memo, Progress, Report
from sync.rounds.project import OpenProject, open_project
from sync.rounds.registration import mark_gone, project_ids
from sync.rounds.train import waiting_training
from sync.rounds.wishes import wishes_of
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import Lease, project_lease, training_lease, worker_name
from sync.store.schedule import KINDS, LONGEST_S, Claim, Kind, Schedule
from sync.store.tables import ProjectRecord
from sync.studio.protocol import StudioClient
from sync.worker.look import LookReport, look
from sync.worker.notices import Notices
from sync.worker.observer import Observer
from sync.worker.round_begin import LeavesTraining, Training, TrainsHere, train_round

__all__ = ["Stopped", "Worker"]

_log = logging.getLogger(__name__)

_ASK_FOR_GONE_S: Final = LONGEST_S
_TRAINING: Final = "training: "
"""before what went wrong in a training, where a project keeps why the last work on it failed"""
_WAITING: Final = ("train.start", "train.progress", "clicks.progress")
_CLEAN_S: Final = 3600.0
_IDLE_S: Final = 1.0
"""seconds between questions to the database for a job that is due"""
_SIGNAL_S: Final = 0.2
"""seconds after which a signal is seen, at most"""
_NOTICE_S: Final = 0.2
"""seconds between looks at the files that webhooks touch"""


class Stopped(Exception):
    """The worker was asked to stop; raised at the next boundary inside a step."""


class Worker:
    """Does what is missing in all projects until it is asked to stop.

    Parameters
    ----------
    settings, store, studio : see ``open_project``
    review_studio : Label Studio of the review projects, when it is another one
    only : these projects only; None = all that take part
    jobs : kinds of work that it takes; without ``train`` its looks leave training to other workers
    report : called as ``report(project, step, share, text)``, by several threads
    checkpoint : called with the name of every boundary (tests)
    observer : is told what happens, by several threads (metrics, signs of life)
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        studio: StudioClient,
        *,
        review_studio: StudioClient | None = None,
        only: Sequence[int] | None = None,
        jobs: Collection[Kind] = KINDS,
        report: Callable[[int, str, float, str], None] = lambda project, step, share, text: None,
        checkpoint: Callable[[str], None] = lambda place: None,
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._studio = studio
        self._review_studio = review_studio
        self._only = only
        self._jobs = tuple(kind for kind in KINDS if kind in jobs)
        self._report = report
        self._checkpoint = checkpoint
        self._observer = observer or Observer()
        self._images = ImageStore(settings)
        self._name = worker_name()
        self._schedule = Schedule(store, settings, self._name, only=only)
        self._stop = threading.Event()
        self._called = {kind: threading.Event() for kind in KINDS}
        # threads share no memo: what one keeps about a project is not changed under the hands of the other
        self._memos: dict[Kind, Memo] = {kind: {} for kind in KINDS}
        self._waits = False
        self._broken: BaseException | None = None
        self._said: dict[tuple[int, Kind], str] = {}
        self._asked_for_gone = time.monotonic()

    def stop(self, *_: object) -> None:
        """Ask the worker to stop at the next boundary."""
        self._stop.set()
        for called in self._called.values():
            called.set()

    def install_signal_handlers(self) -> None:
        """Make SIGTERM and SIGINT stop the worker at the next boundary, a second one at once.

        A single look (``look``) that waits for its training stops at once at the first. The next worker goes
        on with what was under way. Call this in the main thread.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, *_: object) -> None:
        if self._stop.is_set():  # somebody does not want to wait; a kill does no harm
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.stop()
        if self._waits:
            self._waits = False
            raise Stopped("stopped while training; the next worker trains the same snapshot")

    def run(self) -> bool:
        """Take the jobs that are due, again and again until stopped: a thread for each kind of work.

        When stopped, each thread ends at its next boundary, leases are released, and answers that wait in the
        queue are written. A thread that does not come to a boundary within ``stop_s`` seconds is left behind:
        it ends with the process, and its lease runs out. Returns whether all have ended.

        Raises what nobody expected in one of the threads: a worker that does only half of its work must not
        look alive. Whoever started it starts it again.
        """
        threads = [
            threading.Thread(target=self._take_all_turns, args=(kind,), name=f"{kind} jobs", daemon=True)
            for kind in self._jobs
        ]
        for thread in threads:
            thread.start()
        # The system may give a signal to another thread, but its handler runs in this one, when it wakes. It
        # sleeps without a lock: the handler takes that of the event, which must not be held here then.
        while not self._stop.is_set():
            time.sleep(_SIGNAL_S)
        threads.append(threading.Thread(target=self._last_words, name="last answers", daemon=True))
        threads[-1].start()
        until, all_ended = time.monotonic() + self._settings.stop_s, True
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                all_ended = False
                _log.warning("%s did not end within %g s; it ends now", thread.name, self._settings.stop_s)
        if self._broken is not None:
            raise self._broken
        return all_ended

    def _last_words(self) -> None:
        """Write the answers that wait, and end trainings of click networks."""
        trainings = [each for each in list(self._memos["sync"].values()) if isinstance(each, ClickTraining)]
        for training in trainings:
            training.stop()
        if "sync" in self._jobs:
            self._write_answers()
        for training in trainings:
            training.wait()

    def _take_all_turns(self, kind: Kind) -> None:
        try:
            self._take_turns(kind)
        except BaseException as error:
            self._broken = error
            self.stop()

    def _take_turns(self, kind: Kind) -> None:
        """The jobs of one kind, one after another, the one that is due for longest first."""
        self._observer.alive(kind, None)
        notices = Notices(self._settings.data_dir) if kind == "sync" else None
        filled = answered = cleaned = -math.inf
        projects: Sequence[int] = ()
        while not self._stop.is_set():
            was_due = False
            self._called[kind].clear()
            try:
                if time.monotonic() - filled >= _IDLE_S:
                    projects = self._schedule.fill()
                    filled = time.monotonic()
                if kind == "sync" and time.monotonic() - answered >= self._settings.poll_s:
                    self._write_answers()
                    answered = time.monotonic()
                if kind == "sync" and time.monotonic() - cleaned >= _CLEAN_S:
                    self._clean()
                    cleaned = time.monotonic()
                if notices is not None:
                    for project_id in notices.new(projects):
                        self._schedule.call(kind, project_id)
                was_due = self.take_turn(kind)
            except GroundswellError as error:  # of the database: nothing was taken, or its lease runs out
                _log.error("%s jobs: %s", kind, error)
            if not was_due:
                self._rest(kind, notices, projects)

    def _clean(self) -> None:
        """Remove what killed processes were writing, and objects of the object store that nothing names."""
        remove_abandoned(self._settings.data_dir / "projects")
        objects = objects_of(self._settings)
        if objects is not None:
            delete_left_over(self._store, objects)

    def _rest(self, kind: Kind, notices: Notices | None, projects: Sequence[int]) -> None:
        """Sleep for a moment, or until somebody calls for a job of this kind."""
        until = time.monotonic() + min(_IDLE_S, self._settings.poll_s)
        while not self._stop.is_set() and time.monotonic() < until:
            if notices is not None and notices.is_there(projects):
                return
            self._observer.alive(kind, None)
            if self._called[kind].wait(_NOTICE_S if notices is not None else _IDLE_S):
                return

    def take_turn(self, kind: Kind) -> bool:
        """Do the job of this kind that has been due for longest; whether there was one."""
        claim = self._schedule.claim(kind)
        if claim is None:
            return False
        self._do(claim)
        return True

    def _do(self, claim: Claim) -> None:
        """Do a job that was taken, and say when it comes again."""
        project_id = claim.project_id
        again_s: float | None = self._settings.poll_s
        try:
            if claim.kind == "sync":
                training = self._leaves_training(project_id)
                began = time.monotonic()
                work = partial(self._look, project_id, claim.lease, training)
                found = self._on_project(project_id, "sync", work)
                self._observer.looked(project_id, found, time.monotonic() - began)
                if project_id in project_ids(self._store, gone=True):
                    again_s = _ASK_FOR_GONE_S  # a restored backup may bring it back
            else:
                report = self._on_project(project_id, "train", lambda: self._train(project_id, claim.lease))
                self._observer.trained(project_id, report)
                again_s = self._settings.poll_s if report.error else None
        finally:
            try:
                self._schedule.conclude(claim, again_s=again_s)
                if claim.kind == "train":  # what follows a training is due now
                    self._call("sync", project_id)
            finally:
                claim.lease.release()
                self._observer.alive(claim.kind, None)
                set_log_fields(project=None, round=None)

    def _call(self, kind: Kind, project_id: int) -> None:
        self._schedule.call(kind, project_id)
        self._called[kind].set()

    def _leaves_training(self, project_id: int) -> LeavesTraining:
        # under another name: a holder may take its own lease again, and here the training thread may hold it
        lease = training_lease(self._store, self._settings, project_id, f"{self._name}:look")
        return LeavesTraining(lease, lambda: self._call("train", project_id))

    def _train(self, project_id: int, lease: Lease) -> LookReport:
        """The training of the round that a look has begun, if it is still to be done.

        One that fails is noted in its round, and looks say when to try again.
        """
        with self._opened(project_id, "train", lease) as project:
            if wishes_of(project.db).paused == "all":
                return LookReport(project_id, paused="all")
            record = waiting_training(project.db, time.time())
            if record is None:
                return LookReport(project_id)
            version, error = train_round(project, record)
            return LookReport(project_id, round=record.number, trained=version, error=error)

    def look_at_all(self) -> list[LookReport]:
        """One look at every project, in random order so that none starves; errors stop only their project.

        Without the job ``sync``, trainings that were begun are done, and nothing else.
        """
        if "sync" not in self._jobs:
            return self._train_all()
        self._write_answers()
        gone = set(project_ids(self._store, gone=True))
        chosen = project_ids(self._store) if self._only is None else [i for i in self._only if i not in gone]
        ids = [*chosen, *self._gone(gone if self._only is None else gone & set(self._only))]
        random.shuffle(ids)
        reports = []
        for project_id in ids:
            if self._stop.is_set():
                break
            began = time.monotonic()
            found = self.look(project_id)
            self._observer.looked(project_id, found, time.monotonic() - began)
            if found is not None:
                reports.append(found)
        set_log_fields(project=None, round=None)
        return reports

    def _train_all(self) -> list[LookReport]:
        """The training of every project that waits for one."""
        reports = []
        for project_id in self._schedule.projects():
            lease = training_lease(self._store, self._settings, project_id, self._name)
            if self._stop.is_set() or not lease.acquire():
                continue
            with lease:
                work = partial(self._train, project_id, lease)
                reports.append(self._on_project(project_id, "train", work))
                self._observer.trained(project_id, reports[-1])
        return reports

    def _write_answers(self) -> None:
        """Write answers of the review page that wait in the queue, as the backend does."""

        def client_of(mode: Mode) -> StudioClient:
            return self._review_studio or self._studio if mode == QUESTIONS else self._studio

        try:
            flush(self._store, installation_id(self._settings.data_dir), client_of)
        except StorageError as error:
            _log.warning("answers wait in the queue: %s", error)

    def _gone(self, gone: Collection[int]) -> list[int]:
        """Now and then, projects that Label Studio no longer had: a restored backup may bring them back."""
        if time.monotonic() - self._asked_for_gone < _ASK_FOR_GONE_S:
            return []
        self._asked_for_gone = time.monotonic()
        return sorted(gone)

    def _is_news(self, project_id: int, kind: Kind, text: str) -> bool:
        """Whether this error is another one than the last time: the same one is logged once."""
        before = self._said.get((project_id, kind))
        self._said[project_id, kind] = text
        return before != text

    def look(self, project_id: int, *, force_round: bool = False) -> LookReport | None:
        """One look at one project, which waits for its training; expected errors go into the report.

        None when another worker holds it. While another one trains, the look goes on without; with
        ``force_round`` it is None then too.
        """
        self._waits = False
        lease = project_lease(self._store, self._settings, project_id, self._name)
        if not lease.acquire():
            return None
        training = training_lease(self._store, self._settings, project_id, self._name)
        with lease, ExitStack() as stack:
            trains: Training = self._leaves_training(project_id)
            if "train" in self._jobs and training.acquire():
                trains = TrainsHere(stack.enter_context(training))
            elif force_round:
                return None
            return self._on_project(
                project_id, "sync", lambda: self._look(project_id, lease, trains, force_round=force_round)
            )

    def _look(
        self, project_id: int, lease: Lease, training: Training, *, force_round: bool = False
    ) -> LookReport:
        with self._opened(project_id, "sync", lease) as project:
            return look(project, training, force_round=force_round)

    def _on_project(self, project_id: int, kind: Kind, work: Callable[[], LookReport]) -> LookReport:
        """Do ``work``; an error ends only this job of this project, and is noted."""
        set_log_fields(project=project_id, round=None)
        try:
            found = work()
            # why a training failed stands in its round; that it failed for another reason is over now
            _note_error(self._store, project_id, kind, found.error if kind == "sync" else "")
            self._said.pop((project_id, kind), None)
            return found
        except (LeaseLost, Stopped) as error:
            _log.info("project %s: %s", project_id, error)
            if isinstance(error, LeaseLost):
                self._observer.lease_lost(project_id)
            return LookReport(project_id, error=str(error))
        except GroundswellError as error:
            if self._is_news(project_id, kind, str(error)):
                _log.error("project %s: %s", project_id, error)
            self._report(project_id, "error", 1.0, str(error))
            if not self._is_gone(project_id, error):
                _note_error(self._store, project_id, kind, str(error))
            return LookReport(project_id, error=str(error))
        except Exception as error:
            # a bug met in one project must not stop the work on the others; it is shown, not hidden
            text = f"unexpected {type(error).__name__}: {error}"
            if self._is_news(project_id, kind, text):
                _log.exception("project %s: unexpected error", project_id)
            self._report(project_id, "error", 1.0, text)
            _note_error(self._store, project_id, kind, text)
            return LookReport(project_id, error=text)

    def _is_gone(self, project_id: int, error: GroundswellError) -> bool:
        """Whether Label Studio no longer has this project; if so, that is noted."""
        if not isinstance(error, StudioError) or error.status != 404:
            return False
        try:
            return mark_gone(self._store, self._studio, project_id)
        except StudioError as second:
            _log.warning("project %s: %s", project_id, second)
            return False

    @contextmanager
    def _opened(self, project_id: int, kind: Kind, lease: Lease) -> Iterator[OpenProject]:
        """The project as a job of this kind sees it; the caller holds the lease of the job."""
        paths = ProjectPaths(self._settings.data_dir, project_id)
        live = ProgressFile(paths.progress if kind == "sync" else paths.training_progress, self._name)
        with closing(live):
            project = open_project(
                self._settings,
                self._store,
                self._studio,
                project_id,
                review_studio=self._review_studio,
                images=self._images,
                lease=lease,
                progress=Progress(
                    self._reporter(project_id, kind, live), partial(self._at, project_id, kind), lease
                ),
                memo=self._memos[kind],
            )
            yield project
            if isinstance(project.db.shared, SharedFiles):
                project.db.shared.publish("look" if kind == "sync" else "training", project.db.write)

    def _reporter(self, project_id: int, kind: Kind, live: ProgressFile) -> Report:
        said: tuple[str, float, str] | None = None

        def report(step: str, share: float, text: str) -> None:
            nonlocal said
            if (step, share, text) != said:  # what a training says is repeated while it is silent
                self._observer.alive(kind, project_id)
            said = step, share, text
            live.report(step, share, text)
            self._observer.progressed(project_id, step, share)
            self._report(project_id, step, share, text)

        return report

    def _at(self, project_id: int, kind: Kind, place: str) -> None:
        if threading.current_thread() is threading.main_thread():
            # between these boundaries nothing happens here but reading what the training process says
            self._waits = place in _WAITING
        self._checkpoint(place)
        if place != "train.progress":  # reached also while the training process stands still
            self._observer.alive(kind, project_id)
        if self._stop.is_set():
            raise Stopped(f"stopped at {place}; the next worker goes on from here")


def _note_error(store: Store, project_id: int, kind: Kind, text: str) -> None:
    """Keep why work of this kind failed, or that it went well, which says nothing of the other kind."""
    if kind == "train" and text:
        text = f"{_TRAINING}{text}"
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
    if record is None or (kind == "train" and record.gone_at is not None):
        return
    if not text and record.error.startswith(_TRAINING) != (kind == "train"):
        text = record.error
    if record.error == text and record.gone_at is None:
        return
    with store.write() as session:
        record = session.get(ProjectRecord, project_id)
        if record is not None:  # else it left just now
            record.error, record.gone_at = text, None
