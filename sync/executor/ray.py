"""Jobs on the machines of a Ray cluster.

The worker's machine must have joined the cluster (``ray start --address=HEAD:6379 --num-cpus=0``). Everything
travels through Ray: the model as the bytes of its folder, once to each machine, and pictures as their encoded
bytes. Only the worker fetches pictures and writes results. See ``ray_driver`` for the process that does the
talking.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import IO, Any, Final

from ml_backend.errors import ExecutorError
from ml_backend.extras import require_extra
from sync.executor.base import I, Job, O, S, path_of
from sync.executor.frames import (
    Begin,
    Done,
    End,
    Failed,
    Item,
    Ready,
    Result,
    Unreadable,
    Waits,
    Wanted,
    read,
    write,
)

__all__ = ["RayExecutor"]

_log = logging.getLogger(__name__)
_CONNECT_S: Final = 5.0
_JOIN_S: Final = 60.0
_TICK_S: Final = 0.2
_IDLE_S: Final = 120.0
"""seconds after which an unused connection is given up, and with it the models that nodes hold in memory"""
_TAIL_BYTES: Final = 600


class RayExecutor:
    """See ``Executor`` and ``StreamExecutor`` in ``sync.executor.base``. Safe under threads.

    Parameters
    ----------
    address : ``host:port`` of the cluster, or ``auto``: the one that this machine has joined
    task_cpus : CPU cores, and threads, of one task
    cache_bytes : bytes of models that each node keeps on its disk
    wait_s : seconds to wait for a machine that has what a task needs

    Raises MissingExtra when Ray is not installed here. Nothing is connected before the first use.
    """

    name = "ray"

    def __init__(
        self, address: str, *, task_cpus: int = 1, cache_bytes: int = 5 * 1024**3, wait_s: float = 60.0
    ) -> None:
        require_extra("ray")
        self._address = address
        self._arguments = [address, str(task_cpus), str(cache_bytes), str(wait_s)]
        self._lock = threading.Lock()
        self._idle: _Process | None = None
        self._timer: threading.Timer | None = None

    @property
    def ships(self) -> bool:
        return True

    @property
    def elsewhere(self) -> bool:
        return True

    def device(self, wanted: str) -> str:
        """Nodes number their own GPUs, so ``cuda:1`` becomes ``cuda``; ``auto``: GPUs where there are any."""
        if wanted != "auto":
            return "cuda" if wanted.startswith("cuda") else wanted
        process = self._take()
        self._put_back(process)
        return "cuda" if process.gpus else "cpu"

    def map(
        self,
        job: Job[S, I, O],
        inputs: Iterable[I],
        *,
        check: Callable[[], None] = lambda: None,
        said: Callable[[str], None] = lambda line: None,
    ) -> Generator[O]:
        return self._run(_begin(job), inputs, check, said)

    def stream(
        self,
        job: Job[S, Iterator[I], Iterator[O]],
        inputs: Iterable[I],
        *,
        most_cpus: int,
        check: Callable[[], None] = lambda: None,
        said: Callable[[str], None] = lambda line: None,
    ) -> Generator[O]:
        begin = replace(_begin(job), streams=True, most_cpus=most_cpus)
        return self._run(begin, inputs, check, said)

    def _run(
        self,
        begin: Begin,
        inputs: Iterable[Any],
        check: Callable[[], None],
        said: Callable[[str], None],
    ) -> Generator[Any]:
        process = self._take()
        finished = False
        try:
            process.send(begin)
            source = iter(inputs)
            wanted, ended = 0, False
            while True:
                if wanted and not ended:
                    check()
                    try:
                        process.send(Item(next(source)))
                        wanted -= 1
                    except StopIteration:
                        process.send(End())
                        ended = True
                message = process.next(0.0 if wanted and not ended else _TICK_S)
                if message is None:
                    check()
                elif isinstance(message, Wanted):
                    wanted += message.count
                elif isinstance(message, Result):
                    check()
                    yield message.value
                elif isinstance(message, Waits):
                    said(message.line)
                elif isinstance(message, Failed):
                    raise message.error
                elif isinstance(message, Done):
                    finished = True
                    return
        finally:
            if finished:
                self._put_back(process)
            else:  # Ray cancels what runs for a process that is gone
                process.kill()

    def close(self) -> None:
        process = self._taken()
        if process is not None:
            process.kill()

    def _taken(self) -> _Process | None:
        with self._lock:
            process, self._idle = self._idle, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return process

    def _take(self) -> _Process:
        process = self._taken()
        if process is not None and process.is_alive():
            return process
        if process is not None:
            process.kill()
        self._must_answer()
        return _Process(self._address, self._arguments)

    def _put_back(self, process: _Process) -> None:
        with self._lock:
            if self._idle is None:
                self._idle = process
                self._timer = threading.Timer(_IDLE_S, self.close)
                self._timer.daemon = True
                self._timer.start()
                return
        process.kill()

    def _must_answer(self) -> None:
        """Ray itself takes more than a minute to see that nobody is there."""
        if self._address == "auto":
            return
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host has this form
            raise ExecutorError(
                f"the Ray cluster at {self._address} does not answer ({error})",
                field="ray_address",
                hint="Nothing is lost: the next look tries again. Start Ray there, or set "
                "GROUNDSWELL_EXECUTOR=local to go on without it",
            ) from error


def _begin(job: Job[Any, Any, Any]) -> Begin:
    folders = {name: str(path) for name, path in job.folders.items()}
    return Begin(path_of(job.function), job.shared, job.resource, folders, job.what)


class _Process:
    """A ``ray_driver`` that is connected. Raises ExecutorError when it cannot be."""

    def __init__(self, address: str, arguments: list[str]) -> None:
        self._address = address
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill
        self._child = subprocess.Popen(
            [sys.executable, "-m", "sync.executor.ray_driver", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._listen, name="ray driver", daemon=True)
        self._reader.start()
        try:
            first = self.next(_JOIN_S)
            if isinstance(first, Failed):
                raise first.error
            if not isinstance(first, Ready):
                raise self._gone(f"did not let this machine join within {_JOIN_S:.0f} s")
        except BaseException:
            self.kill()
            raise
        self.gpus = first.gpus

    def send(self, message: object) -> None:
        assert self._child.stdin is not None
        try:
            write(self._child.stdin, message)
        except OSError as error:
            # it may have said why before it ended
            while (last := self.next(_TICK_S)) is not None:
                if isinstance(last, Failed):
                    raise last.error from error
            raise self._gone("was lost") from error

    def next(self, timeout_s: float) -> Any:
        """The next message, None when there was none in time."""
        try:
            message = self._inbox.get(timeout=timeout_s) if timeout_s else self._inbox.get_nowait()
        except queue.Empty:
            return None
        if isinstance(message, EOFError):
            raise self._gone("was lost")
        return message

    def is_alive(self) -> bool:
        return self._child.poll() is None and self._inbox.empty()

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self._reader.join()
        for pipe in (self._child.stdin, self._child.stdout, self._stderr):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:  # what was not sent yet is of no use any more
                    _log.debug("the ray driver left before it had read everything")

    def _listen(self) -> None:
        assert self._child.stdout is not None
        while True:
            try:
                self._inbox.put(read(self._child.stdout))
            except Unreadable as error:
                self._inbox.put(Failed(RuntimeError(f"what a task said cannot be read: {error}")))
            except Exception:  # the end, or bytes that are no message: nothing can be read after them
                self._inbox.put(EOFError())
                return

    def _gone(self, what: str) -> ExecutorError:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _TAIL_BYTES))
        tail = self._stderr.read().decode("utf-8", "replace").strip()
        return ExecutorError(
            f"the Ray cluster at {self._address} {what}" + (f": {tail}" if tail else ""),
            hint="Nothing is lost: the next look goes on from here",
        )
