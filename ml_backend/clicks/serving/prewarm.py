"""Embeddings made before anybody clicks: by the worker for a project, by the backend for an annotator.

Background work in the backend waits for clicks in two ways. It starts no encode within ``idle_s`` seconds of
a click, and a click goes before everything that is queued for the device (``device_gate.DeviceGate``). A
running encode is not interrupted.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_backend.artifacts.files import Guard, unguarded, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.caches import ByteCache
from ml_backend.errors import GroundswellError

if TYPE_CHECKING:
    from ml_backend.artifacts.project_facts import ProjectFacts

__all__ = ["EmbedReport", "Embedder", "Prewarmer", "TaskRef", "Upcoming", "embed_ahead", "save_upcoming"]

log = logging.getLogger(__name__)

_MOST_QUEUED = 64
_LIST_BYTES = 64 * 1024**2
_ROW_BYTES = 300  # memory of a row besides its text: two numbers, a tuple, a text object, a dict entry


@dataclass(frozen=True, slots=True)
class TaskRef:
    """One task to embed ahead: project, task id and the address of its image.

    ``is_main``: it is the image that models learn from, not another Image tag of the label config.
    """

    project: ProjectFacts
    task_id: int
    url: str
    is_main: bool = True


class Embedder(Protocol):
    """What prewarming needs of the click service."""

    last_click: float
    """when somebody last clicked, in seconds of ``time.monotonic``"""

    def embed(self, task: TaskRef, /) -> str:
        """Make sure a task's embedding is there; returns the tier it was found in, or ``encoded``."""
        ...


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """Counts of tasks: newly ``encoded``, ``present`` before, ``failed`` (logged); ``seconds`` in all."""

    encoded: int
    present: int
    failed: int
    seconds: float


def embed_ahead(
    service: Embedder,
    refs: Iterable[TaskRef],
    *,
    most: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] | None = None,
) -> EmbedReport:
    """Embed tasks in the order given, in the caller's thread; for the worker's infer step.

    Stops after ``most`` new embeddings or when ``stop()`` says so. A task that fails is logged and left out.
    """
    began = time.monotonic()
    encoded = present = failed = 0
    for ref in refs:
        if stop() or (most is not None and encoded >= most):
            break
        try:
            tier = service.embed(ref)
        except GroundswellError as error:
            failed += 1
            log.warning("task %d not embedded ahead: %s", ref.task_id, error)
            continue
        if tier == "encoded":
            encoded += 1
        else:
            present += 1
        if progress is not None:
            progress(encoded + present)
    return EmbedReport(encoded, present, failed, time.monotonic() - began)


def save_upcoming(
    data_dir: Path, project_id: int, tasks: Sequence[tuple[int, str]], *, guard: Guard = unguarded
) -> None:
    """Write the tasks of a project, (id, address of the image), in the order in which they are served."""
    path = ProjectPaths(data_dir, project_id).root / "upcoming.json"
    write_json(path, [[task_id, url] for task_id, url in tasks], guard=guard)


class Upcoming:
    """The list that ``save_upcoming`` wrote; read again when the file changes."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._known: ByteCache[int, _TaskList] = ByteCache(_LIST_BYTES, lambda tasks: tasks.nbytes)

    @property
    def nbytes(self) -> int:
        """Approximate bytes of the lists held now."""
        return self._known.nbytes

    def after(self, project_id: int, task_id: int, count: int) -> list[tuple[int, str]]:
        """The ``count`` tasks after a task, or the first ones if it is not listed. Empty without a list."""
        path = ProjectPaths(self._data_dir, project_id).root / "upcoming.json"
        try:
            stat = path.stat()
        except FileNotFoundError:
            return []
        known = self._known.get(project_id)
        if known is None or known.stamp != stat.st_mtime_ns:
            try:
                rows = [(int(task), str(url)) for task, url in json.loads(path.read_text())]
            except (OSError, ValueError, TypeError) as error:
                log.warning("%s cannot be read (%s); nothing is prewarmed", path, error)
                rows = []
            position = {task: index for index, (task, _) in enumerate(rows)}
            known = _TaskList(stat.st_mtime_ns, rows, position, stat.st_size + _ROW_BYTES * len(rows))
            self._known.put(project_id, known)
        begin = known.position.get(task_id, -1) + 1
        return known.rows[begin : begin + count]


@dataclass(frozen=True, slots=True, eq=False)
class _TaskList:
    """The upcoming tasks as read when the file had this ``stamp``; ``nbytes`` is roughly their memory."""

    stamp: int
    rows: list[tuple[int, str]]
    position: dict[int, int]
    nbytes: int


class Prewarmer:
    """A background thread that embeds the next tasks of the annotators who click; newest requests first."""

    def __init__(self, service: Embedder, upcoming: Upcoming, *, count: int = 3, idle_s: float = 1.0) -> None:
        self._service = service
        self._upcoming = upcoming
        self._count = count
        self._idle_s = idle_s
        self._wake = threading.Condition()
        self._queue: OrderedDict[tuple[int, int], TaskRef] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.done = 0

    def after_click(self, project: ProjectFacts, task_id: int) -> None:
        """Queue the tasks that follow one. Returns at once."""
        following = self._upcoming.after(project.project_id, task_id, self._count)
        if not following:
            return
        with self._wake:
            if self._closed:
                return
            for next_id, url in reversed(following):
                key = (project.project_id, next_id)
                self._queue[key] = TaskRef(project, next_id, url)
                self._queue.move_to_end(key, last=False)
            while len(self._queue) > _MOST_QUEUED:
                self._queue.popitem()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prewarm", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def close(self) -> None:
        """Stop after the encode that is running."""
        with self._wake:
            self._closed = True
            self._queue.clear()
            self._wake.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _next(self) -> TaskRef | None:
        """The next task once nobody clicks; None when closed."""
        with self._wake:
            while not self._closed:
                quiet = time.monotonic() - self._service.last_click - self._idle_s
                if self._queue and quiet >= 0:
                    return self._queue.popitem(last=False)[1]
                self._wake.wait(-quiet if self._queue else None)
            return None

    def _run(self) -> None:
        while (ref := self._next()) is not None:
            try:
                self._service.embed(ref)
            except GroundswellError as error:
                log.warning("task %d not prewarmed: %s", ref.task_id, error)
            except Exception:  # the thread must outlive one bad task
                log.exception("task %d not prewarmed", ref.task_id)
            self.done += 1
