"""Processes of this machine: order, shared threads, what is cancelled, what becomes of killed ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from ml_backend.errors import ExecutorError, LeaseLost, ModelError
from ml_backend.extras import MissingExtra
from sync.executor import child as child_module
from sync.executor.base import Executor, Job
from sync.executor.processes import ProcessExecutor, threads_each
from tests.sync.executor.functions import (
    Slowly,
    Unpacked,
    cannot_be_sent,
    deadly_square,
    first_is_slow,
    gives_unreadable,
    lacks_an_extra,
    print_square,
    raises_what_cannot_be_sent,
    read_word,
    refuse,
    slow_square,
    threads_here,
    wait_and_tell,
    writes_among_the_messages,
)

ROOT = Path(__file__).resolve().parents[3]
FIRST_USE = """
import sys
from sync.executor.base import Job
from sync.executor.processes import ProcessExecutor
from tests.sync.executor.functions import Slowly, slow_square
executor = ProcessExecutor(2)
for square in executor.map(Job(slow_square, Slowly(float(sys.argv[2]), sys.argv[1])), range(4)):
    print(square, flush=True)
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessExecutor]:
    made = ProcessExecutor(2)
    yield made
    made.close()


def _marks(folder: Path, kind: str) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob(f"{kind}-*")}


def _processes(folder: Path) -> set[int]:
    return {int(path.name.split("-")[2]) for path in folder.glob("began-*")}


def _are_gone(processes: Iterable[int]) -> bool:
    """Whether none of them runs any more; one that nobody has waited for yet is a zombie."""
    left = [psutil.Process(process) for process in processes if psutil.pid_exists(process)]
    return all(process.status() == psutil.STATUS_ZOMBIE for process in left)


def _until(is_so: Callable[[], object], most_s: float = 30.0) -> None:
    end = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_results_come_in_the_order_of_the_inputs(executor: ProcessExecutor, tmp_path: Path) -> None:
    assert isinstance(executor, Executor)
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(30):
            read.append(number)
            yield number

    results = executor.map(Job(slow_square, Slowly(0.02, str(tmp_path))), numbers())
    assert next(results) == 0
    assert len(read) <= 9, "not far ahead"
    assert list(results) == [number**2 for number in range(1, 30)]
    assert len(_processes(tmp_path)) == 2
    assert os.getpid() not in _processes(tmp_path)
    assert list(executor.map(Job(refuse, None), [])) == []


def test_what_is_kept_is_loaded_once_a_process(executor: ProcessExecutor, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    (words / "one").write_text("one")
    (words / "two").write_text("two")
    job = Job(read_word, 2, folders={"words": words})
    found = list(executor.map(job, ["one", "two"] * 4))
    found += executor.map(job, ["one", "two"] * 4)  # the processes are kept, and what they have loaded
    assert [word for word, _, _ in found] == ["oneone", "twotwo"] * 8
    assert max(loads for _, loads, _ in found) <= 2
    assert len({process for _, _, process in found}) <= 2


def test_processes_share_the_threads(executor: ProcessExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    for process, threads, of_opencv in executor.map(Job(threads_here, None), range(4)):
        assert process != os.getpid()
        assert (threads, of_opencv) == (threads_each(2), threads_each(2))
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    assert [threads_each(count) for count in (1, 2, 5, 50)] == [12, 6, 2, 1]


def test_errors_of_functions_arrive_as_they_are(executor: ProcessExecutor) -> None:
    results = executor.map(Job(refuse, None), range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ModelError) as caught:
        next(results)
    assert (caught.value.message, caught.value.hint) == ("there is no third one", "Take another")
    with pytest.raises(RuntimeError, match="a bug"):
        list(executor.map(Job(refuse, None), [4]))
    with pytest.raises(RuntimeError, match="does not travel"):
        list(executor.map(Job(cannot_be_sent, None), [1]))


def test_what_cannot_be_unpickled_fails_the_job_and_no_other(executor: ProcessExecutor) -> None:
    with pytest.raises(RuntimeError, match=r"result of a task cannot be read.*cannot be unpacked"):
        list(executor.map(Job(gives_unreadable, None), [1]))
    assert list(executor.map(Job(wait_and_tell, 0.3), [0])) == [(0.3, 0)]
    with pytest.raises(RuntimeError, match=r"cannot read the input.*cannot be unpacked"):
        list(executor.map(Job(wait_and_tell, Unpacked(os.getpid())), [1]))
    assert list(executor.map(Job(wait_and_tell, "the last"), [2])) == [("the last", 2)]


def test_errors_with_classes_of_their_own_arrive(executor: ProcessExecutor) -> None:
    with pytest.raises(MissingExtra, match="not installed here: torch") as caught:
        list(executor.map(Job(lacks_an_extra, None), [1]))
    assert "groundswell[vision]" in caught.value.hint
    with pytest.raises(RuntimeError, match="ModelError: it holds a lock"):
        list(executor.map(Job(raises_what_cannot_be_sent, None), [1]))


def test_a_process_that_cannot_read_its_input_ends_though_a_thread_of_a_task_runs_on() -> None:
    executor = ProcessExecutor(1)
    with pytest.raises(RuntimeError, match="it holds a lock"):
        list(executor.map(Job(raises_what_cannot_be_sent, None), [1]))  # leaves a thread behind
    with pytest.raises(RuntimeError, match="cannot read the input"):
        list(executor.map(Job(wait_and_tell, Unpacked(os.getpid())), [1]))
    assert list(executor.map(Job(wait_and_tell, "the last"), [2])) == [("the last", 2)]
    executor.close()


def test_a_process_whose_messages_are_spoilt_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_END_S", 0.1)  # it runs on, and nothing is heard of it
    executor = ProcessExecutor(1)
    with pytest.raises(ExecutorError, match="each of 3 processes"):
        list(executor.map(Job(writes_among_the_messages, None), [1]))
    executor.close()


def test_inputs_are_not_read_far_ahead_of_a_slow_one(executor: ProcessExecutor) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = executor.map(Job(first_is_slow, None), numbers())
    assert next(results) == 0
    assert len(read) <= 9, "results of later ones would pile up"
    assert list(results) == list(range(1, 100))


def test_a_process_forgets_all_jobs_but_two(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one")
    jobs = [Job(read_word, factor, folders={"words": tmp_path}) for factor in (1, 2, 3)]
    executor = ProcessExecutor(1)
    for job in jobs:
        assert [loads for _, loads, _ in executor.map(job, ["one"])] == [1]
    (tmp_path / "one").write_text("changed")
    found = [word for job in reversed(jobs) for word, _, _ in executor.map(job, ["one"])]
    assert found == ["one" * 3, "one" * 2, "changed"]
    executor.close()


def test_what_tasks_print_is_no_message(executor: ProcessExecutor) -> None:
    assert list(executor.map(Job(print_square, None), range(4))) == [0, 1, 4, 9]


def test_a_lost_lease_cancels_what_runs(executor: ProcessExecutor, tmp_path: Path) -> None:
    def check() -> None:
        if _processes(tmp_path):
            raise LeaseLost("another worker took over")

    with pytest.raises(LeaseLost):
        list(executor.map(Job(slow_square, Slowly(60.0, str(tmp_path))), range(6), check=check))
    assert _are_gone(_processes(tmp_path))
    assert list(executor.map(Job(refuse, None), [1])) == [1], "the next job is not disturbed"


def test_a_closed_iterator_cancels_what_runs(executor: ProcessExecutor, tmp_path: Path) -> None:
    results = executor.map(Job(slow_square, Slowly(0.5, str(tmp_path))), range(6))
    assert next(results) == 0
    _until(lambda: len(_marks(tmp_path, "began")) >= 2)
    results.close()
    assert _are_gone(_processes(tmp_path))


def test_inputs_of_a_killed_process_run_again(executor: ProcessExecutor, tmp_path: Path) -> None:
    job = Job(deadly_square, str(tmp_path))
    assert list(executor.map(job, range(8))) == [number**2 for number in range(8)]
    assert (tmp_path / "killed-2").exists()
    results = executor.map(Job(deadly_square, str(tmp_path), what="squaring"), [8, 9, 10])
    with pytest.raises(ExecutorError, match=r"squaring: each of 3 processes .* killed by SIGKILL") as caught:
        list(results)
    assert "memory" in caught.value.hint


def test_a_process_that_died_while_idle_is_replaced(executor: ProcessExecutor) -> None:
    assert list(executor.map(Job(refuse, None), [1])) == [1]
    dead = list(executor._idle)
    for child in dead:
        os.kill(child.pid, signal.SIGKILL)
    _until(lambda: all(child._is_lost for child in dead))  # what it said last went to the job before
    assert list(executor.map(Job(refuse, None), [1, 2])) == [1, 2]


def test_processes_do_not_hear_the_signals_that_stop_a_worker(executor: ProcessExecutor) -> None:
    assert list(executor.map(Job(refuse, None), [1])) == [1]
    before = {child.pid for child in executor._idle}
    for process in before:  # somebody tells all processes to stop; the worker says what becomes of them
        os.kill(process, signal.SIGINT)
        os.kill(process, signal.SIGTERM)
    assert list(executor.map(Job(refuse, None), [1, 2])) == [1, 2]
    assert before <= {child.pid for child in executor._idle}
    executor.close()
    assert _are_gone(before)


def test_a_job_for_the_gpu_runs_in_the_worker(executor: ProcessExecutor, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one")
    job = Job(read_word, 1, "gpu", {"words": tmp_path})
    assert [process for _, _, process in executor.map(job, ["one"])] == [os.getpid()]


def test_processes_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", FIRST_USE, str(tmp_path), "60"], cwd=ROOT)
    _until(lambda: len(_processes(tmp_path)) == 2)
    worker.kill()
    worker.wait()
    _until(lambda: _are_gone(_processes(tmp_path)))


def test_a_worker_ends_with_idle_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_USE, str(tmp_path), "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "1", "4", "9"], "")
    _until(lambda: _are_gone(_processes(tmp_path)))
