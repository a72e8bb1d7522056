"""Run a training of any kind in a process of its own, with one message format for all of them.

A job is a module that calls ``run_as_child(work)`` when started as a program. ``run_child`` starts it as
``python -m MODULE REQUEST.json OUT``, where REQUEST.json holds the request and OUT is the folder to write
to. The child answers with one JSON object per line on stdout: ``{"kind": "progress", "share": 0.1, "line":
"…"}`` while it works, and last ``{"kind": "report", "report": {…}}`` or ``{"kind": "error", …}``. Its exit
code is 0 after a report.

Why a process? It can be killed at any moment. When it ends, the memory of the device is free again and
nothing else is affected. And it can have the allocator settings that suit training. The child reads its
stdin: when the parent ends for any reason, the pipe closes and the child ends too.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ml_backend import errors
from ml_backend.artifacts.files import read_json, write_json
from ml_backend.devices import TUNED_MALLOC
from ml_backend.errors import GroundswellError, ModelError
from ml_backend.learners.base import Progress

__all__ = ["Work", "child_main", "run_as_child", "run_child", "training_environment"]

log = logging.getLogger(__name__)

_ORPHANED = 3
_TAIL_BYTES = 2000
_SILENCE_S = 1.0

Work = Callable[[Any, Path, Progress], Any]
"""What a job does: (request as read from JSON, folder to write to, progress) -> report, ready for JSON."""


class _Progress(BaseModel):
    kind: Literal["progress"] = "progress"
    share: float
    line: str


class _Report(BaseModel):
    kind: Literal["report"] = "report"
    report: Any


class _Error(BaseModel):
    """A deliberate error; ``type`` is the name of its class in ``ml_backend.errors``."""

    kind: Literal["error"] = "error"
    type: str
    message: str
    hint: str = ""
    field: str = ""


_MESSAGE: TypeAdapter[_Progress | _Report | _Error] = TypeAdapter(
    Annotated[_Progress | _Report | _Error, Field(discriminator="kind")]
)


def training_environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment ``base`` with settings for training added; variables that ``base`` sets stay unchanged.

    The allocator keeps big buffers, which is about twice as fast on a CPU. Threads sleep while they wait, so
    that they do not slow down a busy machine.
    """
    return {**TUNED_MALLOC, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", **base}


# The parent's side


def run_child(
    module: str,
    request: Mapping[str, Any],
    out: Path,
    progress: Progress,
    *,
    timeout_s: float | None = None,
    what: str = "training",
) -> Any:
    """Run the job ``module`` in a child process, relay its progress and return its report.

    If ``progress`` raises, the child is killed and the exception is passed on. If the job raised a
    GroundswellError (BadInput, ModelError, …), the same error is raised here. Any other end without a report
    raises ModelError with the exit code or signal and the end of its stderr; so does a job that was stopped
    because it took longer than ``timeout_s``. ``what`` names the job in these errors.
    """
    with tempfile.TemporaryDirectory(prefix="groundswell-job-") as scratch:
        request_file = Path(scratch) / "request.json"
        write_json(request_file, request)
        with (Path(scratch) / "stderr").open("w+b") as stderr:
            last, code, late = _run(
                [sys.executable, "-m", module, str(request_file), str(out)], stderr, progress, timeout_s
            )
            tail = _tail(stderr)
    if isinstance(last, _Report):
        if code != 0:  # everything was written before the report
            log.warning("%s %s after its report%s", module, _ending(code), tail and f": {tail}")
        return last.report
    if isinstance(last, _Error):
        raise _rebuilt(last)
    reason = f"took longer than {timeout_s:.0f} s and was stopped" if late and timeout_s else _ending(code)
    out_of_memory = code == -signal.SIGKILL and not late
    raise ModelError(
        f"the {what} process {reason}" + (f": {tail}" if tail else ""),
        hint="SIGKILL often means that memory ran out: lower the options batch or size"
        if out_of_memory
        else "",
    )


def _run(
    command: Sequence[str], stderr: IO[bytes], progress: Progress, timeout_s: float | None
) -> tuple[_Report | _Error | None, int, bool]:
    """The child's report or error, its exit code, and whether it was stopped at the time limit."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=training_environment(os.environ),
        text=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        child.kill()

    alarm = threading.Timer(timeout_s, stop) if timeout_s is not None else None
    if alarm is not None:
        alarm.start()
    try:
        last = _relay(child, progress)
        return last, child.wait(), late.is_set()
    finally:
        if alarm is not None:
            alarm.cancel()
        if child.poll() is None:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _relay(child: subprocess.Popen[str], progress: Progress) -> _Report | _Error | None:
    """Pass progress on, and repeat it while the child is silent, so that the parent can stop it at any time.

    Returns the last report or error.
    """
    last: _Report | _Error | None = None
    said: _Progress | None = None
    with closing(_lines(child)) as lines:
        for line in lines:
            if line is None:
                if said is not None:
                    progress(said.share, said.line)
                continue
            try:
                message = _MESSAGE.validate_python(json.loads(line))
            except (json.JSONDecodeError, ValidationError):
                continue  # a library printed something
            if isinstance(message, _Progress):
                said = message
                progress(said.share, said.line)
            else:
                last = message
    return last


def _lines(child: subprocess.Popen[str]) -> Generator[str | None]:
    """The lines that a child prints until it ends, and None after every second in which it printed none."""
    assert child.stdout is not None
    out = child.stdout
    printed: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in out:
            printed.put(line)
        printed.put(None)

    reader = threading.Thread(target=read, name="child's output", daemon=True)
    reader.start()
    try:
        while True:
            try:
                line = printed.get(timeout=_SILENCE_S)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            yield line
    finally:
        if child.poll() is None:  # nobody may still read the pipe when it is closed
            child.kill()
        reader.join()


def _tail(stderr: IO[bytes]) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _TAIL_BYTES))
    return stderr.read().decode("utf-8", "replace").strip()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "a signal"
    return f"was killed by {name} (signal {-code})"


def _rebuilt(error: _Error) -> GroundswellError:
    kind = getattr(errors, error.type, ModelError)
    if not (isinstance(kind, type) and issubclass(kind, GroundswellError)):
        kind = ModelError
    return kind(error.message, hint=error.hint, field=error.field)


# The child's side


def run_as_child(work: Work, *, nice: int = 0) -> None:
    """The main program of a job: do the work that the command line names, and exit. Never returns.

    The process also ends when its parent does, and only then: Ctrl-C and the end of a service reach the
    processes of a whole group, and the parent must be the one that says what becomes of the work.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_it_to_the_parent)
    if nice:
        os.nice(nice)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(child_main(work, sys.argv[1:]))


def _leave_it_to_the_parent(*_: object) -> None:
    """Go on; processes of the child's own are not touched by this, as they would be by ignored signals."""


def child_main(work: Work, arguments: Sequence[str]) -> int:
    """Do the work of REQUEST.json, print the report or the error, and return the exit code."""
    if len(arguments) != 2:
        print("two arguments are needed: REQUEST.json OUT", file=sys.stderr)
        return 2
    request_file, out = Path(arguments[0]), Path(arguments[1])
    try:
        report = work(
            read_json(request_file), out, lambda share, line: _say(_Progress(share=share, line=line))
        )
    except GroundswellError as error:
        _say(_Error(type=type(error).__name__, message=error.message, hint=error.hint, field=error.field))
        return 1
    _say(_Report(report=report))
    return 0


def _say(message: BaseModel) -> None:
    sys.stdout.write(json.dumps(message.model_dump()) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    # Not sys.stdin.buffer.read(): a thread that waits inside a buffered reader holds its lock, and the
    # interpreter aborts (SIGABRT) when it meets that lock on its way out.
    while os.read(0, 4096):
        pass
    os._exit(_ORPHANED)
