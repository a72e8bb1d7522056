"""The worker: finds what is missing in each project and does it, one project at a time, under a lease.

A *look* is one pass over a project. It compares Label Studio, the store and the data directory, and takes the
steps of the round that are missing: pull → train → infer → cluster → review → push. Everything is kept in
those three places. So a worker may be killed at any moment, and the next one simply looks again. A webhook
only touches a file that shortens the wait for the next look.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager

from ml_backend.artifacts.inbox import last_notice
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import GroundswellError, LeaseLost, StorageError, StudioError
from ml_backend.images.store import ImageStore
from ml_backend.log_fields import set_log_fields
from sync.review.flush import flush
from sync.review.outbox import QUESTIONS, Mode
from sync.review.review_project import installation_id
from sync.rounds.live_progress import ProgressFile
from sync.rounds.progress import Progress, Report
from sync.rounds.project import OpenProject, open_project
from sync.rounds.registration import mark_gone, project_ids
from sync.settings import Settings
from sync.store.database import Store
from sync.store.lease import project_lease, worker_name
from sync.store.tables import ProjectRecord
from sync.studio.protocol import StudioClient
from sync.worker.look import LookReport, look
from sync.worker.observer import Observer

__all__ = ["Stopped", "Worker"]

_log = logging.getLogger(__name__)


_ASK_FOR_GONE_S = 3600.0
_WAITING = ("train.start", "train.progress", "clicks.progress")


class Stopped(Exception):
    """The worker was asked to stop; raised at the next boundary inside a step."""


class Worker:
    """Takes looks at all projects until it is asked to stop.

    Parameters
    ----------
    settings, store, studio : see ``open_project``
    review_studio : Label Studio of the review projects, when it is another one
    only : these projects only; None = all that take part
    report : called as ``report(project, step, share, text)``
    checkpoint : called with the name of every boundary (tests)
    observer : is told what happens (metrics, signs of life)
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
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._studio = studio
        self._review_studio = review_studio
        self._only = only
        self._report = report
        self._checkpoint = checkpoint
        self._observer = observer or Observer()
        self._images = ImageStore(settings)
        self._name = worker_name()
        self._stop = threading.Event()
        self._memo: dict[object, object] = {}
        self._waits = False
        self._said: dict[int, str] = {}
        self._asked_for_gone = time.monotonic()

    def stop(self, *_: object) -> None:
        """Ask the worker to stop at the next boundary (also a signal handler)."""
        self._stop.set()

    def install_signal_handlers(self) -> None:
        """Make SIGTERM and SIGINT stop the worker at the next boundary, or at once while it waits for a
        training.

        The next worker goes on with what was under way. Call this in the main thread.
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
        """One look at every project, in random order so that none starves; errors stop only their project."""
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

    def _is_news(self, project_id: int, text: str) -> bool:
        """Whether this error is another one than at the last look: the same one is logged once."""
        before = self._said.get(project_id)
        self._said[project_id] = text
        return before != text

    def look(self, project_id: int, *, force_round: bool = False) -> LookReport | None:
        """One look at one project; None when another worker holds it. Expected errors go into the report."""
        self._waits = False
        set_log_fields(project=project_id, round=None)
        try:
            with self._opened(project_id) as project:
                if project is None:
                    return None
                found = look(project, force_round=force_round)
                _note_error(self._store, project_id, found.error)
                self._said.pop(project_id, None)
                return found
        except (LeaseLost, Stopped) as error:
            _log.info("project %s: %s", project_id, error)
            if isinstance(error, LeaseLost):
                self._observer.lease_lost(project_id)
            return LookReport(project_id, error=str(error))
        except GroundswellError as error:
            if self._is_news(project_id, str(error)):
                _log.error("project %s: %s", project_id, error)
            self._report(project_id, "error", 1.0, str(error))
            if not self._is_gone(project_id, error):
                _note_error(self._store, project_id, str(error))
            return LookReport(project_id, error=str(error))
        except Exception as error:
            # a bug met in one project must not stop the work on the others; it is shown, not hidden
            text = f"unexpected {type(error).__name__}: {error}"
            if self._is_news(project_id, text):
                _log.exception("project %s: unexpected error", project_id)
            self._report(project_id, "error", 1.0, text)
            _note_error(self._store, project_id, text)
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
    def _opened(self, project_id: int) -> Iterator[OpenProject | None]:
        lease = project_lease(self._store, self._settings, project_id, self._name)
        if not lease.acquire():
            yield None
            return
        live = ProgressFile(ProjectPaths(self._settings.data_dir, project_id).progress, self._name)
        with lease, closing(live):
            yield open_project(
                self._settings,
                self._store,
                self._studio,
                project_id,
                review_studio=self._review_studio,
                images=self._images,
                lease=lease,
                progress=Progress(self._reporter(project_id, live), self._at, lease),
                memo=self._memo,
            )

    def _reporter(self, project_id: int, live: ProgressFile) -> Report:
        def report(step: str, share: float, text: str) -> None:
            live.report(step, share, text)
            self._observer.progressed(project_id, step, share)
            self._report(project_id, step, share, text)

        return report

    def _at(self, place: str) -> None:
        # between these boundaries nothing happens here but reading what the training process says
        self._waits = place in _WAITING
        self._checkpoint(place)
        self._observer.alive()
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
            self._observer.alive()
            self._stop.wait(min(0.2, self._settings.poll_s))


def _note_error(store: Store, project_id: int, text: str) -> None:
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
    if record is None or (record.error == text and record.gone_at is None):
        return
    with store.write() as session:
        record = session.get_one(ProjectRecord, project_id)
        record.error, record.gone_at = text, None
