"""A process that works through the tasks of a job, and what the worker holds of it; see ``task_process``."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from sync.executor.frames import Begin, Failed, Item, Result, Unreadable, read, write

__all__ = ["Child", "Inbox", "Lost"]

_log = logging.getLogger(__name__)
_TAIL_BYTES: Final = 600
_END_S: Final = 5.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Lost:
    """Says that a child has ended."""


Inbox = queue.SimpleQueue[tuple["Child", Result | Failed | Lost]]
"""What children say, each message with the child that says it."""


class Child:
    """A process that was started for tasks. Not safe under threads, but for what ``attach`` says.

    ``outstanding`` : numbers and values of the inputs that it has and has not answered, the oldest first
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.outstanding: deque[tuple[int, Any]] = deque()
        self._begin: Begin | None = None
        self._lock = threading.Lock()
        self._inbox: Inbox = queue.SimpleQueue()
        self._is_lost = False
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sync.executor.task_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )
        name = f"task process {next(_numbers)}"
        self._reader = threading.Thread(target=self._listen, name=name, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def attach(self, inbox: Inbox) -> bool:
        """Say everything to ``inbox`` from now on; False when the process has ended already."""
        with self._lock:
            self._inbox = inbox
            return not self._is_lost

    def send(self, begin: Begin, number: int, value: Any) -> None:
        """Give it one more input of a job. When it has ended meanwhile, ``Lost`` follows as always."""
        self.outstanding.append((number, value))
        assert self._process.stdin is not None
        try:
            if self._begin is not begin:
                write(self._process.stdin, begin)
                self._begin = begin
            write(self._process.stdin, Item(value))
        except OSError as error:
            _log.debug("process %d takes no more input: %s", self.pid, error)

    def kill(self) -> None:
        """End it, and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:  # what was not sent yet is of no use any more
                    _log.debug("process %d left before it had read everything", self.pid)

    def ending(self) -> str:
        """How it ended, with the end of what it wrote to stderr."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # it says nothing any more, but something in it still runs
            self._process.kill()
            code = self._process.wait()
        if code >= 0:
            how = f"ended with exit code {code}"
        elif -code in set(signal.Signals):
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"was killed by signal {-code}"
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _TAIL_BYTES))
        tail = self._stderr.read().decode("utf-8", "replace").strip()
        return how + (f": {tail}" if tail else "")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                self._say(read(self._process.stdout))
            except Unreadable as error:
                self._say(Failed(RuntimeError(f"the result of a task cannot be read: {error}")))
            except Exception:  # the end, or bytes that are no message: nothing can be read after them
                self._say(Lost())
                return

    def _say(self, message: Result | Failed | Lost) -> None:
        with self._lock:
            self._is_lost = isinstance(message, Lost)
            self._inbox.put((self, message))
