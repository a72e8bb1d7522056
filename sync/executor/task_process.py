"""A process that does tasks for a worker on the same machine. ``sync.executor.child`` starts it.

Messages of ``frames`` come in by stdin and go out by stdout: ``Begin`` before the first input of a job, then
an answer to each ``Item``. It ends when the worker does, also in the middle of a task.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, Final

from ml_backend.errors import GroundswellError
from sync.executor.base import Node, function_at
from sync.executor.frames import Begin, Failed, Item, Result, Unreadable, read, write

_JOBS_KEPT: Final = 2


def serve(inbox: queue.SimpleQueue[Any], out: IO[bytes]) -> None:
    """Answer inputs, one after the other. Returns after a message that could not be unpickled.

    Nobody knows then whether a job began with it, so what follows could be done for the wrong job.
    """
    kept: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
    begin, node = None, Node({}, {})
    while True:
        message = inbox.get()
        if isinstance(message, Begin):
            begin = message
            job = pickle.dumps((begin.function, begin.shared, sorted(begin.folders.items())))
            mine = kept.setdefault(job, {})
            kept.move_to_end(job)
            while len(kept) > _JOBS_KEPT:
                kept.popitem(last=False)
            node = Node({name: Path(path) for name, path in begin.folders.items()}, mine)
            continue
        if not isinstance(message, Item):
            write(out, Failed(RuntimeError(f"a task failed: its process cannot read the input: {message}")))
            return
        try:
            assert begin is not None
            write(out, Result(function_at(begin.function)(begin.shared, message.value, node)))
        except Exception as error:
            write(out, Failed(_told(error)))


def _told(error: Exception) -> Exception:
    """What the worker should raise: a deliberate error as it is, others as something that can be sent."""
    if isinstance(error, GroundswellError):
        try:
            pickle.dumps(error)
        except Exception as why:
            return RuntimeError(f"{type(error).__name__}: {error} (it could not be sent as it is: {why!r})")
        return error
    return RuntimeError(f"a task failed: {''.join(traceback.format_exception(error)).strip()}")


def _listen(pipe: IO[bytes], inbox: queue.SimpleQueue[Any]) -> None:
    """Take messages as they come, so that the worker never waits; end the process when the worker is gone."""
    while True:
        try:
            inbox.put(read(pipe))
        except Unreadable as error:
            inbox.put(error)
        except (EOFError, OSError):
            os._exit(0)


def main() -> None:
    """Listen and answer until the worker ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print must not get among the messages
    pipe = os.fdopen(os.dup(0), "rb")
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and systemd tell all; the worker decides
        signal.signal(number, signal.SIG_IGN)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    try:
        serve(inbox, out)
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # threads that a task has started must not keep it, or nobody would learn of its end


if __name__ == "__main__":
    main()
