"""A training on another machine, as one task: examples come in, progress, checkpoints and the version go out.

The learner runs in a process of its own, as it does on the worker's machine, so that it has the same settings
and gives the same weights with as many threads. Files lie in a folder for the time of the training, which is
removed in any case: a process that holds nothing else does so when this one is killed.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from ml_backend.examples import Example
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.training_job import run_training
from sync.executor.base import Node
from sync.executor.pieces import Arriving, Piece, folder_pieces
from sync.rounds.training_folder import keep_events

__all__ = [
    "CHECKPOINT",
    "PICTURES",
    "START",
    "Files",
    "Given",
    "Sent",
    "Shown",
    "Told",
    "TrainingThere",
    "Whole",
    "train_there",
]

START: Final = "start"
"""name of the job's folder that holds the version to start from"""
PICTURES: Final = "pictures"
CHECKPOINT: Final = "resume"
"""folders of the files that come, before their names"""
_VERSION: Final = "version"
_SHARE: Final = 0.05
"""checkpoints take at most this share of the time to send"""
_TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class TrainingThere:
    """What a training is, without its examples and files.

    Attributes
    ----------
    learner, target : its name, and its ``module:class``
    spec : without examples, ``start`` and ``resume``
    start : name of the version to start from, whose files are in the folder ``START``; empty: none
    checkpoint_s : seconds between checkpoints that are sent, at least
    """

    learner: str
    target: str
    spec: TrainSpec
    start: str
    checkpoint_s: float


@dataclass(frozen=True, slots=True)
class Given:
    """One example; ``image`` is a name below ``PICTURES``, whose pieces came before if it can be read."""

    split: Literal["train", "test"]
    example: Example


@dataclass(frozen=True, slots=True)
class Shown:
    """How far it is."""

    share: float
    line: str


@dataclass(frozen=True, slots=True)
class Files:
    """Pieces of a checkpoint or of the version."""

    of: Literal["checkpoint", "version"]
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class Whole:
    """All pieces of it were sent; the ``digest`` of them all."""

    of: Literal["checkpoint", "version"]
    digest: str


Sent = Sequence[Piece | Given]
"""one input of ``train_there``"""
Told = Shown | Files | Whole | TrainReport
"""one result of it; the report is the last"""


def train_there(training: TrainingThere, inputs: Iterator[Sent], node: Node) -> Iterator[Told]:
    """Train, with the pieces of files and the examples that ``inputs`` gives.

    Raises what the learner raises, StorageError when the disk is full.
    """
    with _passing_folder() as folder:
        spec = _received(training, inputs, node, folder)
        yield from _trained(training, spec, folder)


def _received(training: TrainingThere, inputs: Iterator[Sent], node: Node, folder: Path) -> TrainSpec:
    arriving = Arriving(folder)
    examples: dict[str, list[Example]] = {"train": [], "test": []}
    for batch in inputs:
        for each in batch:
            if isinstance(each, Piece):
                arriving.add([each])
            else:
                placed = replace(each.example, image=folder / PICTURES / each.example.image)
                examples[each.split].append(placed)
    start = None
    if training.start:  # copied: the node's cache may drop it while a training of several parts runs
        start = folder / START / training.start
        shutil.copytree(node.folder(START), start)
    resume = folder / CHECKPOINT
    resume.mkdir(exist_ok=True)
    return replace(
        training.spec,
        train=tuple(examples["train"]),
        test=tuple(examples["test"]),
        start=start,
        resume=resume,
    )


def _trained(training: TrainingThere, spec: TrainSpec, folder: Path) -> Iterator[Told]:
    out, resume = folder / _VERSION, folder / CHECKPOINT
    out.mkdir()
    said: queue.SimpleQueue[Shown | TrainReport | Exception] = queue.SimpleQueue()
    is_over = threading.Event()

    def relay(share: float, line: str) -> None:
        if is_over.is_set():
            raise RuntimeError("nobody waits for this training any more")  # ends the learner's process
        said.put(Shown(share, line))

    def work() -> None:
        try:
            said.put(run_training(training.learner, spec, out, relay, target=training.target))
        except Exception as error:
            said.put(error)

    thread = threading.Thread(target=work, name="training", daemon=True)
    thread.start()
    checkpoints = _Checkpoints(resume, training.checkpoint_s)
    last: Shown | None = None
    try:
        while True:
            try:
                message = said.get(timeout=_TICK_S)
            except queue.Empty:
                yield from checkpoints.new()
                continue
            if isinstance(message, Exception):
                raise message
            if isinstance(message, TrainReport):
                break
            if message != last:  # silent seconds are repetitions
                last = message
                yield message
            yield from checkpoints.new()
    finally:
        is_over.set()
        thread.join()
    keep_events(resume, out)
    digest = yield from _files("version", out)
    yield Whole("version", digest)
    yield message


class _Checkpoints:
    """Sends what a training keeps in ``folder`` whenever it has changed, at most every so often."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self._folder = folder
        self._wait_s = self._every_s = every_s
        self._sent = self._state()
        self._sent_at = time.monotonic()

    def new(self) -> Iterator[Told]:
        """A checkpoint that is due."""
        began = time.monotonic()
        if began - self._sent_at < self._wait_s or (state := self._state()) == self._sent:
            return
        digest = yield from _files("checkpoint", self._folder)
        yield Whole("checkpoint", digest)
        self._sent, self._sent_at = state, time.monotonic()
        self._wait_s = max(self._every_s, (self._sent_at - began) / _SHARE)

    def _state(self) -> list[tuple[str, int]]:
        """What tells one checkpoint from the next; curves and files that are being written are not asked."""
        found = []
        for path in sorted(self._folder.rglob("*.safetensors")):
            try:
                found.append((str(path), path.stat().st_mtime_ns))
            except FileNotFoundError:  # just being replaced
                continue
        return found


def _files(of: Literal["checkpoint", "version"], folder: Path) -> Generator[Told, None, str]:
    pieces = folder_pieces(folder)
    while True:
        try:
            yield Files(of, next(pieces))
        except StopIteration as end:
            return str(end.value)


@contextmanager
def _passing_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, also when this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix="groundswell-training-"))
    # it reads until this process is gone, and then lets the learner's process end as well
    waits_and_removes = 'cat >/dev/null; sleep 1; rm -rf -- "$1"'
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", waits_and_removes, "sh", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        env={"PATH": os.defpath},
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()
