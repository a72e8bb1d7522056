"""A training on a machine of an executor: what travels there, and what comes back.

The worker sends the pictures and what people drew on them, and gets progress, checkpoints and the version,
piece by piece. Checkpoints lie where those of a training of its own would. So when the machine is lost, or
the worker is stopped, the training goes on from the last one that came.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ml_backend.artifacts.files import Guard
from ml_backend.errors import ModelError
from ml_backend.examples import Example
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS
from sync.executor.base import Job, StreamExecutor, TaskLost
from sync.executor.choice import executor_of
from sync.executor.pieces import PIECE_BYTES, Arriving, Piece, file_pieces
from sync.rounds.progress import Memo, Progress
from sync.rounds.train_task import (
    CHECKPOINT,
    PICTURES,
    START,
    Files,
    Given,
    Sent,
    Shown,
    Told,
    TrainingThere,
    Whole,
    train_there,
)
from sync.rounds.training_folder import BEFORE
from sync.settings import Settings

__all__ = ["executor_that_trains", "train_elsewhere"]

_log = logging.getLogger(__name__)
_LOSSES: Final = 5
_CHECKPOINT_S: Final = 60.0
_REPEAT_S: Final = 1.0
_NEED_THE_WORKER: Final = frozenset({"zero-shot", "everything", "adopted"})


def executor_that_trains(
    settings: Settings, memo: Memo, learner: str, spec: TrainSpec, progress: Progress
) -> StreamExecutor | None:
    """Who trains this; None: the worker itself, which says so where other machines would have been asked."""
    if settings.executor == "local" or not settings.ray_train_cpus:
        return None
    executor = executor_of(settings, memo)
    if not isinstance(executor, StreamExecutor):
        return None
    file = _file_here(learner, spec.options)
    if file:
        progress.report("train", 0.0, f"{file} of this machine: no other one helps")
        return None
    return executor


def _file_here(learner: str, options: Mapping[str, Any]) -> str:
    """What a training reads that lies on the worker's machine alone, in words; empty: nothing."""
    if learner in _NEED_THE_WORKER:
        return f"{learner} reads files"
    for name, value in options.items():
        if name == "parts" and isinstance(value, (list, tuple)):
            for part in map(_fields, value):
                if found := _file_here(str(part.get("learner", "")), part.get("options", {})):
                    return found
        elif isinstance(value, str) and ("/" in value or "." in value) and _exists(value):
            return f"the option {name} names a file"
    return ""


def _fields(part: Any) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {"learner": part.learner, "options": part.options}


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError):  # too long, or with characters that no path has
        return False


def train_elsewhere(
    executor: StreamExecutor,
    settings: Settings,
    learner: str,
    spec: TrainSpec,
    out: Path,
    progress: Progress,
    *,
    guard: Guard,
) -> TrainReport:
    """Train ``spec`` into the empty folder ``out`` as a task of ``executor``.

    Where its machine is lost it runs again, from the last checkpoint that came. Raises what the learner
    raises, ModelError when its machine was lost again and again, ExecutorError when there is none, LeaseLost.
    """
    losses = 0
    while True:
        attempt = _Attempt(settings, out, spec, progress, guard)
        try:
            return attempt.run(executor, learner)
        except TaskLost as error:
            losses += 1
            _log.warning("training, machine lost %d times: %s", losses, error)
            if losses > _LOSSES:
                raise ModelError(f"{error.message}; that was {losses} times", hint=error.hint) from error
            for path in out.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            has_checkpoint = spec.resume is not None and spec.resume.is_dir()
            goes_on = "goes on from its last checkpoint" if has_checkpoint else "begins anew"
            progress.report("train", 0.0, f"{error.message}: the training {goes_on}")


class _Attempt:
    """One task: until it is done, or lost."""

    def __init__(
        self, settings: Settings, out: Path, spec: TrainSpec, progress: Progress, guard: Guard
    ) -> None:
        self._settings = settings
        self._spec = spec
        self._progress = progress
        self._guard = guard
        self._out = out
        self._version = Arriving(out)
        self._checkpoint: Arriving | None = None
        # beside the version's folder: removed with it when the worker is killed
        self._staging = out.with_name(f"{out.name}-checkpoint")
        self._said: Shown | None = None
        self._said_at = 0.0

    def run(self, executor: StreamExecutor, learner: str) -> TrainReport:
        spec = self._spec
        device = executor.device(self._settings.device)
        training = TrainingThere(
            learner,
            LEARNERS[learner],
            replace(spec, train=(), test=(), start=None, resume=None, device=device),
            "" if spec.start is None else spec.start.name,
            _CHECKPOINT_S,
        )
        job: Job[TrainingThere, Iterator[Sent], Iterator[Told]] = Job(
            train_there,
            training,
            "gpu" if device.startswith("cuda") else "cpu",
            {} if spec.start is None else {START: spec.start},
            "training",
        )
        told = executor.stream(
            job,
            _batches(_sent(spec)),
            most_cpus=self._settings.ray_train_cpus,
            check=self._check,
            said=lambda line: self._progress.report("train", 0.0, line),
        )
        try:
            with closing(told):
                for each in told:
                    if isinstance(each, TrainReport):
                        self._forget_curves()
                        return each
                    self._take(each)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
        raise TaskLost("the training ended without a report")

    def _take(self, told: Shown | Files | Whole) -> None:
        if isinstance(told, Shown):
            self._relay(told)
        elif told.of == "version":
            if isinstance(told, Files):
                self._version.add(told.pieces)
            else:
                self._version.finish(told.digest)
        elif isinstance(told, Files):
            if self._checkpoint is None:
                self._checkpoint = Arriving(self._staging)
            self._checkpoint.add(told.pieces)
        elif self._checkpoint is not None:
            self._checkpoint.finish(told.digest)
            self._checkpoint = None
            self._keep_checkpoint()

    def _keep_checkpoint(self) -> None:
        assert self._spec.resume is not None
        last = self._out.with_name(f"{self._out.name}{BEFORE}")
        shutil.rmtree(last, ignore_errors=True)
        with self._guard():  # a worker that lost its lease must not undo the work of its successor
            # renamed, not removed: after a kill in between ``remove_leftovers`` puts it back
            if self._spec.resume.exists():
                self._spec.resume.rename(last)
            self._staging.rename(self._spec.resume)
        shutil.rmtree(last, ignore_errors=True)

    def _forget_curves(self) -> None:
        """The version came with them all; what checkpoints had of them must not take their place."""
        resume = self._spec.resume
        for events in sorted(resume.rglob("events")) if resume is not None else ():
            shutil.rmtree(events)

    def _relay(self, shown: Shown) -> None:
        self._said, self._said_at = shown, time.monotonic()
        self._progress.report("train", min(shown.share, 0.99), shown.line)
        self._progress.at("train.progress")

    def _check(self) -> None:
        """Repeat what was said last, for those who watch, and end where the worker is to stop."""
        if self._said is not None and time.monotonic() - self._said_at >= _REPEAT_S:
            self._relay(self._said)
        else:
            self._progress.at("train.progress")


def _sent(spec: TrainSpec) -> Iterator[Piece | Given]:
    """All files and examples of a training; a picture of several examples once."""
    names: dict[Path, str] = {}
    sets: Mapping[Any, tuple[Example, ...]] = {"train": spec.train, "test": spec.test}
    for split, examples in sets.items():
        for example in examples:
            image = example.image
            if image not in names:
                names[image] = f"{len(names)}{image.suffix}"
                try:
                    yield from file_pieces(image, f"{PICTURES}/{names[image]}")
                except OSError as error:  # the learner names the task, as it would here
                    _log.warning("task %d: its picture cannot be sent: %s", example.task_id, error)
            yield Given(split, dataclasses.replace(example, image=Path(names[image])))
    if spec.resume is not None and spec.resume.is_dir():
        for path in sorted(path for path in spec.resume.rglob("*") if path.is_file()):
            yield from file_pieces(path, f"{CHECKPOINT}/{path.relative_to(spec.resume).as_posix()}")


def _batches(sent: Iterator[Piece | Given]) -> Iterator[list[Piece | Given]]:
    """Batches of about ``PIECE_BYTES``."""
    batch: list[Piece | Given] = []
    size = 0
    for each in sent:
        batch.append(each)
        size += len(each.data) if isinstance(each, Piece) else _mask_bytes(each.example)
        if size >= PIECE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _mask_bytes(example: Example) -> int:
    return 200 + sum(len(str(rle["counts"])) for rle in (*example.rle, *example.ignore))
