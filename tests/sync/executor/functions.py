"""What tests run as tasks; nodes of Ray import it by name."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ml_backend.artifacts.files import write_atomic, write_json
from ml_backend.errors import BadInput, ModelError
from ml_backend.extras import MissingExtra
from ml_backend.instances import Instances
from ml_backend.learners.base import Evaluation, Progress, TrainReport, TrainSpec
from sync.executor.base import Node
from tests.sync.tiny_learner import TinyLearner, TinyPredictor

DOOMED = "GROUNDSWELL_TEST_DOOMED"
"""environment variable: a file that names the process of a node to be killed, or is not there"""


@dataclass(frozen=True, slots=True)
class Slowly:
    """``seconds`` that each task takes; files in ``marks`` tell which ones began and which ones ended."""

    seconds: float
    marks: str


def slow_square(slowly: Slowly, number: int, node: Node) -> int:
    marks = Path(slowly.marks)
    (marks / f"began-{number}-{os.getpid()}").touch()
    time.sleep(slowly.seconds)
    (marks / f"ended-{number}").touch()
    return number * number


def read_word(factor: int, name: str, node: Node) -> tuple[str, int, int]:
    """The word in a file of the folder, how often this process has loaded it, and which process that is."""
    loads = node.keep("loads", lambda: [0])

    def load() -> str:
        loads[0] += 1
        return (node.folder("words") / name).read_text()

    return node.keep(name, load) * factor, loads[0], os.getpid()


def refuse(shared: None, number: int, node: Node) -> int:
    if number == 3:
        raise ModelError("there is no third one", hint="Take another", field="number")
    if number == 4:
        raise KeyError("a bug")
    return number


class MortalPredictor(TinyPredictor):
    """On the node that is doomed it dies in mid batch, and the node with it; others wait for that."""

    def predict(self, images: Sequence[Any]) -> Iterator[Instances]:
        for found in super().predict(images):
            if os.environ.get(DOOMED):
                _meet_fate(Path(os.environ[DOOMED]))
            yield found


def _meet_fate(doomed: Path) -> None:
    killed = doomed.with_name("killed")
    if doomed.exists() and doomed.read_text() == str(os.getppid()):
        killed.touch()
        os.kill(os.getppid(), signal.SIGKILL)  # what Ray has on each node, the parent of all tasks
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.monotonic() + 30
    while doomed.exists() and not killed.exists() and time.monotonic() < end:
        time.sleep(0.05)


class StepLearner(TinyLearner):
    """Counts in steps, with a checkpoint and a curve after each, from the bytes of all pictures.

    Options: ``steps`` (5), ``sleep_s`` of each, ``fail_at`` a step, ``die_at`` a step if a machine is doomed.
    """

    name = "steps"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        return

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        assert spec.resume is not None
        options = {"steps": 5, "sleep_s": 0.0, "fail_at": 0, "die_at": 0, **spec.options}
        seen = hashlib.sha256(repr([example.rle for example in spec.train]).encode())
        for example in (*spec.train, *spec.test):
            seen.update(example.image.read_bytes())
        if spec.start is not None:
            seen.update(spec.start.name.encode() + (spec.start / "steps.json").read_bytes())
        kept, events = spec.resume / "checkpoint.safetensors", spec.resume / "events" / "curve"
        value, first = json.loads(kept.read_text()) if kept.exists() else (int(seen.hexdigest()[:8], 16), 1)
        me = f" of process {os.getpid()}"
        threads = os.environ["OMP_NUM_THREADS"]
        progress(first / options["steps"], f"from step {first}, with {threads} threads{me}")
        events.parent.mkdir(parents=True, exist_ok=True)
        for step in range(first, options["steps"] + 1):
            if step == options["fail_at"]:
                raise BadInput("was told to fail", hint="Do not tell it", field="options.fail_at")
            if step == options["die_at"]:
                _die_with_the_machine()
            value = value * 31 % 1_000_003 + step
            with events.open("a") as curve:
                curve.write(f"{step} ")
            write_atomic(kept, json.dumps([value, step + 1]).encode())
            progress(step / options["steps"], f"step {step}{me}")
            time.sleep(options["sleep_s"])
        (out / "deep").mkdir()
        (out / "deep" / "weights").write_bytes(hashlib.sha256(str(value).encode()).digest() * 400_000)
        write_json(out / "steps.json", {"value": value})
        found = Evaluation(len(spec.test), len(spec.train), {})
        return TrainReport(self.name, "nothing", options["steps"], 0.0, found)


def _die_with_the_machine() -> None:
    doomed = Path(os.environ[DOOMED])
    if not doomed.exists() or doomed.with_name("killed").exists():
        return
    above = psutil.Process().parents()
    assert int(doomed.read_text()) in [process.pid for process in above], "this machine is not the doomed one"
    time.sleep(1.5)  # the last checkpoint travels
    doomed.with_name("killed").touch()
    for process in reversed(above[: [each.pid for each in above].index(int(doomed.read_text())) + 1]):
        process.kill()
    time.sleep(60)


class MortalLearner(TinyLearner):
    """The tiny learner, with such a predictor."""

    name = "mortal"

    def load(self, folder: Path, *, device: str = "auto") -> MortalPredictor:
        tiny = super().load(folder, device=device)
        return MortalPredictor(tiny.labels, tiny._colours)


def deadly_square(marks: str, number: int, node: Node) -> int:
    """Kills its process the first time it sees 2, and each time it sees 9."""
    mark = Path(marks) / f"killed-{number}"
    if number == 9 or (number == 2 and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def threads_here(shared: None, number: int, node: Node) -> tuple[int, int, int]:
    """Process, and the threads that torch would use and that OpenCV uses."""
    import cv2

    from ml_backend.devices import omp_threads

    return os.getpid(), omp_threads(), cv2.getNumThreads()


class NotSent:
    """What cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("it does not travel")


def cannot_be_sent(shared: None, number: int, node: Node) -> NotSent:
    return NotSent()


class Unpacked:
    """What this process can pickle, and where ``pid`` is not its own, or is 0, cannot unpickle."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return _unpack, (self.pid,)


def _unpack(pid: int) -> Unpacked:
    if pid != os.getpid():
        raise ValueError("it cannot be unpacked")
    return Unpacked(pid)


def gives_unreadable(shared: None, number: int, node: Node) -> Unpacked:
    return Unpacked(0)


def wait_and_tell(shared: object, number: int, node: Node) -> tuple[object, int]:
    if isinstance(shared, float):
        time.sleep(shared)
    return shared, number


def first_is_slow(shared: None, number: int, node: Node) -> int:
    time.sleep(0.5 if number == 0 else 0.0)
    return number


def print_square(shared: None, number: int, node: Node) -> int:
    """Prints, as Python does and as a library in C does."""
    print(number, flush=True)
    os.write(1, b"a library\n")
    return number * number


def lacks_an_extra(shared: None, number: int, node: Node) -> None:
    raise MissingExtra(["torch"], ["vision"])


def raises_what_cannot_be_sent(shared: None, number: int, node: Node) -> None:
    threading.Thread(target=time.sleep, args=(600,)).start()  # as libraries have some
    error = ModelError("it holds a lock")
    vars(error)["lock"] = threading.Lock()
    raise error


def writes_among_the_messages(shared: None, number: int, node: Node) -> None:
    """To every pipe that this process has for writing."""
    for pipe in range(3, 64):
        try:
            os.write(pipe, b"\xff" * 16)
        except OSError:  # not open, or only for reading
            continue
    time.sleep(600)
