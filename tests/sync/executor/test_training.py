"""A training on Ray gives the version of the worker's own, whatever happened to the machines meanwhile."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ml_backend.errors import BadInput, LeaseLost, ModelError, StorageError
from ml_backend.examples import Example
from ml_backend.learners.base import TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS
from ml_backend.learners.training_job import run_training
from sync.executor.base import StreamExecutor, TaskLost
from sync.executor.pieces import PIECE_BYTES, Arriving, Piece, folder_pieces
from sync.executor.ray import RayExecutor
from sync.rounds import far_training
from sync.rounds.far_training import executor_that_trains, train_elsewhere
from sync.rounds.progress import Memo, Progress
from sync.rounds.train_task import Files, Whole
from sync.rounds.training_folder import remove_leftovers, training_folder
from sync.settings import Settings
from tests.sync.executor.conftest import NODE

STEPS = "tests.sync.executor.functions:StepLearner"


@pytest.fixture(autouse=True)
def _checkpoints_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEARNERS, "steps", STEPS)
    monkeypatch.setattr(far_training, "_CHECKPOINT_S", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of trainings in this process; a task on Ray has its own


def _spec(folder: Path, **options: Any) -> TrainSpec:
    """Three examples of two pictures, one of which is larger than what is sent at once."""
    folder.mkdir()
    for name, size in {"a.png": 2 * PIECE_BYTES + 7, "b.png": 10}.items():
        (folder / name).write_bytes(name.encode() * (size // 5))
    rle = {"size": [2, 2], "counts": "04"}
    examples = [Example(i, folder / name, (0,), (rle,)) for i, name in enumerate(["a.png", "b.png", "b.png"])]
    start = folder / "v0001"
    start.mkdir()
    (start / "steps.json").write_text("17")
    train, test = tuple(examples[:2]), (examples[2],)
    return TrainSpec(("x",), train, test, start=start, options=options, resume=folder / ".training")


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class There:
    """One training on Ray; ``lines`` and ``shares`` are what was said, ``at`` is called between."""

    def __init__(self, executor: StreamExecutor, folder: Path, cpus: int = 1) -> None:
        self.out = folder / ".v0002.0"
        self.settings = Settings(data_dir=folder, device="cpu", ray_train_cpus=cpus)
        self.executor = executor
        self.process = 0
        self.lines: list[str] = []
        self.shares: list[float] = []

    def report(self, step: str, share: float, line: str) -> None:
        assert step == "train"
        if line.startswith("waits until"):  # a busy machine starts processes slowly
            return
        text, _, process = line.partition(" of process ")
        self.lines.append(text)
        self.shares.append(share)
        self.process = int(process or self.process)

    def run(
        self,
        spec: TrainSpec,
        at: Callable[[str], None] = lambda place: None,
        guard: Callable[..., Any] = lambda *_: nullcontext(),
    ) -> TrainReport:
        self.out.mkdir(exist_ok=True)
        progress = Progress(self.report, at)
        return train_elsewhere(self.executor, self.settings, "steps", spec, self.out, progress, guard=guard)


def _here(spec: TrainSpec, folder: Path) -> tuple[TrainReport, list[str], dict[str, bytes]]:
    """Report, lines and files of the same training in a process of the worker, with its curve."""
    said: list[str] = []
    (folder / "here").mkdir()
    spec = replace(spec, resume=folder / "kept-here")
    report = run_training("steps", spec, folder / "here", lambda share, line: said.append(line), target=STEPS)
    curve = (folder / "kept-here" / "events" / "curve").read_bytes()
    return report, said, {**_files(folder / "here"), "events/curve": curve}


def _left() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("groundswell-training-*"))


def _until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_version_and_the_progress_are_those_of_the_worker(executor: RayExecutor, tmp_path: Path) -> None:
    spec = _spec(tmp_path / "set", sleep_s=0.1)
    here, said, files = _here(spec, tmp_path)
    there = There(executor, tmp_path)
    report = there.run(spec)
    assert report == here
    assert _files(there.out) == files
    assert len(_files(there.out)["deep/weights"]) > PIECE_BYTES, "it came in several pieces"
    assert spec.resume is not None
    assert [path.name for path in spec.resume.iterdir()] == ["checkpoint.safetensors"], "its curve came whole"
    assert there.lines == [line.split(" of process ")[0] for line in said]
    assert there.lines[0] == "from step 1, with 1 threads"
    assert there.shares[1:] == [0.2, 0.4, 0.6, 0.8, 0.99]
    assert _left() == []


def test_a_stopped_worker_ends_the_training_and_goes_on_from_the_checkpoint_later(
    executor: RayExecutor, tmp_path: Path
) -> None:
    spec = _spec(tmp_path / "set", steps=6)
    slow = replace(spec, options={**spec.options, "sleep_s": 0.3})
    there = There(executor, tmp_path)
    kept = tmp_path / "set" / ".training" / "checkpoint.safetensors"

    def at(place: str) -> None:
        if kept.exists():
            raise LeaseLost("another worker took over")

    with pytest.raises(LeaseLost):
        there.run(slow, at)
    _until(lambda: not psutil.pid_exists(there.process))
    _until(lambda: not _left())
    again = There(executor, tmp_path)
    again.run(spec)
    assert again.lines[0].startswith("from step ")
    assert not again.lines[0].startswith("from step 1,")
    assert _files(again.out) == _here(spec, tmp_path)[2], "the curve too"


def test_errors_of_the_learner_arrive_as_they_are(executor: RayExecutor, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        There(executor, tmp_path).run(_spec(tmp_path / "set", fail_at=2))
    error = caught.value
    assert (error.message, error.hint, error.field) == (
        "was told to fail",
        "Do not tell it",
        "options.fail_at",
    )


def test_a_machine_that_is_killed_in_mid_training_changes_nothing(
    executor: RayExecutor, ray_cluster: Any, tmp_path: Path
) -> None:
    doomed = ray_cluster.add_node(**{**NODE, "num_cpus": 2})
    marks = Path(ray_cluster.doomed)
    marks.with_name("killed").unlink(missing_ok=True)
    marks.write_text(str(doomed.all_processes["raylet"][0].process.pid))
    there = There(executor, tmp_path, cpus=2)  # no other machine has two
    spec = _spec(tmp_path / "set", steps=8, die_at=5)
    try:
        there.run(spec)
    finally:
        marks.unlink()
        ray_cluster.remove_node(doomed, allow_graceful=False)
    assert marks.with_name("killed").exists()
    lost = next(i for i, line in enumerate(there.lines) if "was lost" in line)
    assert "goes on from its last checkpoint" in there.lines[lost]
    assert there.lines[0] == "from step 1, with 2 threads"
    assert "from step 5, with 1 threads" in there.lines[lost:]
    assert _files(there.out) == _here(spec, tmp_path)[2]


class Loses:
    """A cluster that loses the machine of every training, after a part of its version came."""

    name, ships, elsewhere = "loses", True, True

    def __init__(self, *, damages: bool = False) -> None:
        self.count = 0
        self.damages = damages

    def device(self, wanted: str) -> str:
        return wanted

    def map(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def stream(self, *_: Any, **__: Any) -> Any:
        self.count += 1
        yield Files("version", [Piece("part", b"x" * self.count)])
        if self.count < 3:
            yield Files("checkpoint", [Piece("checkpoint.safetensors", b"y" * self.count)])
            sent = b"z" if self.damages else b"y" * self.count
            yield Whole("checkpoint", _digest("checkpoint.safetensors", sent))
        raise TaskLost("it was lost")

    def close(self) -> None:
        return


def _digest(name: str, data: bytes) -> str:
    return hashlib.sha256(f"{name}\0{len(data)}\0".encode() + data).hexdigest()


def test_a_training_that_is_lost_again_and_again_has_failed(tmp_path: Path) -> None:
    cluster = Loses()
    there = There(cluster, tmp_path)
    spec = _spec(tmp_path / "set")
    with pytest.raises(ModelError, match="that was 6 times"):
        there.run(spec)
    assert cluster.count == 6
    assert _files(there.out) == {"part": b"x" * 6}, "only what the last attempt sent"
    assert spec.resume is not None
    assert _files(spec.resume) == {"checkpoint.safetensors": b"yy"}, "the last checkpoint that came"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".v0002.0", "set"]


def test_a_kill_while_a_checkpoint_is_replaced_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_folder(tmp_path, "v0002")
    spec = replace(_spec(tmp_path / "set"), resume=training)
    training.mkdir()
    (training / "checkpoint.safetensors").write_bytes(b"theirs")
    remove = shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if Path(path).exists() and (Path(path) / "checkpoint.safetensors").exists():
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(far_training.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            There(Loses(), tmp_path).run(spec)
    for _ in range(2):
        assert _files(training) == {"checkpoint.safetensors": b"y"}
        remove_leftovers(tmp_path, "v0002")  # what the next start does
    assert sorted(path.name for path in tmp_path.iterdir()) == [training.name, "set"]


def test_a_kill_between_the_checkpoints_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_folder(tmp_path, "v0002")
    spec = replace(_spec(tmp_path / "set"), resume=training)
    training.mkdir()
    (training / "checkpoint.safetensors").write_bytes(b"theirs")
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if target == training:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            There(Loses(), tmp_path).run(spec)
    assert not training.exists()
    remove_leftovers(tmp_path, "v0002")
    assert _files(training) == {"checkpoint.safetensors": b"theirs"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [training.name, "set"]


def test_neither_a_damaged_checkpoint_nor_one_without_the_lease_is_kept(tmp_path: Path) -> None:
    there = There(Loses(), tmp_path)
    spec = _spec(tmp_path / "set")
    assert spec.resume is not None
    spec.resume.mkdir()
    (spec.resume / "checkpoint.safetensors").write_bytes(b"theirs")

    def guard(*_: object) -> Any:
        raise LeaseLost("another worker took over")

    with pytest.raises(LeaseLost):
        there.run(spec, guard=guard)
    with pytest.raises(StorageError, match="not those that were sent"):
        There(Loses(damages=True), tmp_path).run(spec)
    assert _files(spec.resume) == {"checkpoint.safetensors": b"theirs"}


def test_the_worker_trains_what_reads_files_of_its_machine_and_says_so(tmp_path: Path) -> None:
    memo: Memo = {}
    weights = tmp_path / "weights.pth"
    weights.touch()
    spec = TrainSpec(("x",), (), (), options={"weights": "cached"})
    settings = Settings(data_dir=tmp_path, executor="ray", ray_address="127.0.0.1:9")
    assert executor_that_trains(Settings(data_dir=tmp_path), memo, "maskrcnn", spec, Progress()) is None
    off = settings.model_copy(update={"ray_train_cpus": 0})
    assert executor_that_trains(off, memo, "maskrcnn", spec, Progress()) is None
    pytest.importorskip("ray")
    assert executor_that_trains(settings, memo, "maskrcnn", spec, Progress()) is not None
    said: list[str] = []
    progress = Progress(lambda step, share, line: said.append(line))
    named = replace(spec, options={"weights": str(weights)})
    assert executor_that_trains(settings, memo, "maskrcnn", named, progress) is None
    cold = replace(spec, options={"parts": [{"learner": "zero-shot", "options": {}}]})
    assert executor_that_trains(settings, memo, "several", cold, progress) is None
    assert said == [
        "the option weights names a file of this machine: no other one helps",
        "zero-shot reads files of this machine: no other one helps",
    ]


def test_pieces_that_are_not_those_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "one").write_bytes(b"one")
    (tmp_path / "from" / ".being-written").write_bytes(b"half")
    batches = folder_pieces(tmp_path / "from")
    pieces = next(batches)
    with pytest.raises(StopIteration) as end:
        next(batches)
    arriving = Arriving(tmp_path / "to")
    arriving.add(pieces)
    arriving.finish(end.value.value)
    assert _files(tmp_path / "to") == {"one": b"one"}
    other = Arriving(tmp_path / "other")
    other.add([Piece("one", b"two")])
    with pytest.raises(StorageError, match="not those that were sent"):
        other.finish(end.value.value)
    for name in ("../out", "/out", "a/../../out"):
        with pytest.raises(StorageError, match="no place below"):
            other.add([Piece(name, b"x")])
