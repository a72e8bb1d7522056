"""Jobs in several processes of this machine.

Python runs one thread at a time, and small models do not fill all cores with threads of their own. So each
process works on a task with its share of the threads.

Why not ``concurrent.futures``? Its pool is broken as a whole when one process is killed, and what runs in it
cannot be cancelled. Here the inputs of a killed process run again in another one.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from typing import Final

from ml_backend.devices import limit_threads, omp_threads, resolve_device
from ml_backend.errors import ExecutorError
from ml_backend.learners.child_process import training_environment
from sync.executor.base import I, Job, O, S, path_of
from sync.executor.child import Child, Inbox, Lost
from sync.executor.frames import Begin, Failed, Result
from sync.executor.local import LocalExecutor

__all__ = ["ProcessExecutor", "threads_each"]

_TICK_S: Final = 0.2
_IDLE_S: Final = 120.0
"""seconds after which unused processes end, and with them the models that they hold in memory"""
_EACH: Final = 2
"""inputs that a process is given: one to work on, and the next"""
_TRIES: Final = 3


def threads_each(processes: int) -> int:
    """Threads of each process: all of them have as many as the worker alone would, but at least one each."""
    all_threads = omp_threads() or len(os.sched_getaffinity(0))
    return max(1, all_threads // processes)


class ProcessExecutor:
    """See ``sync.executor.base.Executor``. Safe under threads. ``processes`` : how many work at once.

    Jobs that need a GPU run in this process: several processes would only share it. Nothing is started before
    the first use, and never more processes than there are inputs.
    """

    name = "local"

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._timer: threading.Timer | None = None

    @property
    def ships(self) -> bool:
        return True

    @property
    def elsewhere(self) -> bool:
        return False

    def device(self, wanted: str) -> str:
        return resolve_device(wanted)

    def map(
        self,
        job: Job[S, I, O],
        inputs: Iterable[I],
        *,
        check: Callable[[], None] = lambda: None,
        said: Callable[[str], None] = lambda line: None,
    ) -> Generator[O]:
        if job.resource == "gpu":
            yield from LocalExecutor().map(job, inputs, check=check, said=said)
            return
        folders = {name: str(path) for name, path in job.folders.items()}
        team = _Team(self, Begin(path_of(job.function), job.shared, job.resource, folders, job.what))
        answers: dict[int, Result | Failed] = {}
        source = iter(inputs)
        count = due = 0
        ended = False
        try:
            while True:
                while (answer := answers.pop(due, None)) is not None:
                    due += 1
                    check()
                    if isinstance(answer, Failed):
                        raise answer.error
                    yield answer.value
                if ended and due == count:
                    return
                most = _EACH * self.processes
                wants = not ended and team.outstanding < most and count - due < 2 * most
                if wants:
                    check()
                    try:
                        team.send(count, next(source))
                        count += 1
                    except StopIteration:
                        ended = True
                answers |= team.answers(0.0 if wants else _TICK_S)
                if not wants:
                    check()
        finally:
            team.dismiss()

    def close(self) -> None:
        for child in self._taken(self.processes):
            child.kill()

    def take(self, inbox: Inbox) -> Child:
        """A process that says everything to ``inbox``: one that was idle, or a new one."""
        for child in self._taken(1):
            if child.attach(inbox):
                return child
            child.kill()
        child = Child(training_environment({**os.environ, **limit_threads(threads_each(self.processes))}))
        child.attach(inbox)
        return child

    def put_back(self, child: Child) -> None:
        """Keep a process that has nothing to do for later jobs, for a while."""
        with self._lock:
            if len(self._idle) < self.processes:
                self._idle.append(child)
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = threading.Timer(_IDLE_S, self.close)
                self._timer.daemon = True
                self._timer.start()
                return
        child.kill()

    def _taken(self, most: int) -> list[Child]:
        with self._lock:
            taken, self._idle = self._idle[-most:], self._idle[:-most]
            if not self._idle and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return taken


class _Team:
    """The processes that work on one job."""

    def __init__(self, executor: ProcessExecutor, begin: Begin) -> None:
        self._executor = executor
        self._begin = begin
        self._inbox: Inbox = queue.SimpleQueue()
        self._children: list[Child] = []
        self._losses: Counter[int] = Counter()

    @property
    def outstanding(self) -> int:
        """Inputs that were sent and have no answer."""
        return sum(len(child.outstanding) for child in self._children)

    def send(self, number: int, value: object) -> None:
        """Give an input to who has the fewest; to one more process while all have something to do."""
        child = min(self._children, key=lambda child: len(child.outstanding), default=None)
        if child is None or (child.outstanding and len(self._children) < self._executor.processes):
            child = self._executor.take(self._inbox)
            self._children.append(child)
        child.send(self._begin, number, value)

    def answers(self, timeout_s: float) -> dict[int, Result | Failed]:
        """What came, by the number of the input, after waiting so long for the first.

        Raises ExecutorError when one input has ended ``_TRIES`` processes.
        """
        found: dict[int, Result | Failed] = {}
        while True:
            try:
                child, message = self._inbox.get(timeout=0 if found or not timeout_s else timeout_s)
            except queue.Empty:
                return found
            if isinstance(message, Lost):
                self._replace(child)
            else:
                number, _ = child.outstanding.popleft()
                found[number] = message

    def dismiss(self) -> None:
        """Those that are at work are killed, the others are kept."""
        for child in self._children:
            if child.outstanding:
                child.kill()
            else:
                self._executor.put_back(child)

    def _replace(self, child: Child) -> None:
        """Let another process do what a lost one had."""
        self._children.remove(child)
        ending = child.ending()
        left = list(child.outstanding)
        child.kill()
        for number, _ in left[:1]:  # it was at work on the first one
            self._losses[number] += 1
            if self._losses[number] >= _TRIES:
                raise ExecutorError(
                    f"{self._begin.what}: each of {_TRIES} processes ended with the same input; "
                    f"the last one {ending}",
                    field="local_processes",
                    hint="SIGKILL often means that memory ran out: fewer processes need less. "
                    "Nothing is lost: the next look goes on from here",
                )
        if left:
            other = self._executor.take(self._inbox)
            self._children.append(other)
            for number, value in left:
                other.send(self._begin, number, value)
