"""Ray: results in the order of the inputs, what is cancelled, what is said when a machine is away."""

from __future__ import annotations

import io
import queue
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_backend.errors import ExecutorError, LeaseLost, ModelError
from sync.executor.base import Job
from sync.executor.frames import Failed, Result, read, write
from sync.executor.ray import RayExecutor, _Process
from sync.executor.ray_driver import Driver
from tests.sync.executor.functions import Slowly, read_word, refuse, slow_square, threads_here


def _marks(folder: Path, kind: str) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob(f"{kind}-*")}


def _until(is_so: Callable[[], object], most_s: float = 30.0) -> None:
    end = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_results_come_in_the_order_of_the_inputs(executor: RayExecutor, tmp_path: Path) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(30):
            read.append(number)
            yield number

    results = executor.map(Job(slow_square, Slowly(0.0, str(tmp_path))), numbers())
    assert next(results) == 0
    assert len(read) < 12, "not far ahead"
    assert list(results) == [number**2 for number in range(1, 30)]
    assert list(executor.map(Job(refuse, None), [])) == []


def test_folders_travel_and_models_stay_in_memory(executor: RayExecutor, tmp_path: Path) -> None:
    words = tmp_path / "words"
    (words / "deep").mkdir(parents=True)
    (words / "one").write_text("one")
    (words / "deep" / "two").write_text("two")
    job = Job(read_word, 2, folders={"words": words})
    found = list(executor.map(job, ["one", "deep/two"] * 4))
    assert [word for word, _, _ in found] == ["oneone", "twotwo"] * 4
    assert max(loads for _, loads, _ in found) <= 2, "what is kept is loaded once a process"
    assert len({process for _, _, process in found}) <= 2


def test_a_task_has_as_many_threads_as_cores(executor: RayExecutor) -> None:
    found = {
        (threads, of_opencv) for _, threads, of_opencv in executor.map(Job(threads_here, None), range(4))
    }
    assert found == {(1, 1)}


def test_errors_of_functions_arrive_as_they_are(executor: RayExecutor) -> None:
    results = executor.map(Job(refuse, None), range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ModelError) as caught:
        next(results)
    assert (caught.value.message, caught.value.hint) == ("there is no third one", "Take another")
    with pytest.raises(RuntimeError, match="a bug"):
        list(executor.map(Job(refuse, None), [4]))


def test_a_lost_lease_cancels_what_runs(executor: RayExecutor, tmp_path: Path) -> None:
    lost = False

    def check() -> None:
        if lost:
            raise LeaseLost("another worker took over")

    results = executor.map(Job(slow_square, Slowly(1.0, str(tmp_path))), range(6), check=check)
    assert next(results) == 0
    _until(lambda: len(_marks(tmp_path, "began")) >= 3)
    lost = True
    with pytest.raises(LeaseLost):
        next(results)
    began = _marks(tmp_path, "began")
    time.sleep(1.3)
    assert began - _marks(tmp_path, "ended"), "a task that ran did not come to its end"
    assert _marks(tmp_path, "began") == began, "nothing else was begun"
    assert list(executor.map(Job(refuse, None), [1])) == [1], "the next job is not disturbed"


def test_a_task_that_no_machine_can_run_is_an_error(ray_cluster: Any, executor: RayExecutor) -> None:
    assert executor.device("auto") == "cpu"
    assert executor.device("cuda:1") == "cuda"
    said: list[str] = []
    with pytest.raises(ExecutorError, match="no machine of the Ray cluster has a GPU for tasks") as caught:
        list(executor.map(Job(refuse, None, "gpu"), [1], said=said.append))
    assert caught.value.field == "device"
    assert said == ["waits: no machine of the Ray cluster has a GPU for tasks"]
    large = RayExecutor(ray_cluster.address, task_cpus=2, wait_s=0.5)  # two in all, one on each
    with pytest.raises(ExecutorError, match="no machine of the Ray cluster has 2 CPU cores"):
        list(large.map(Job(refuse, None), [1]))
    large.close()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "head..node:6379"])  # no name has two dots in a row
def test_an_address_where_nobody_answers(address: str) -> None:
    pytest.importorskip("ray")
    executor = RayExecutor(address)
    with pytest.raises(ExecutorError, match="does not answer") as caught:
        list(executor.map(Job(refuse, None), [1]))
    assert "GROUNDSWELL_EXECUTOR=local" in caught.value.hint


def test_a_lost_connection_is_an_error_and_the_next_job_connects_anew(
    executor: RayExecutor, tmp_path: Path
) -> None:
    results = executor.map(Job(slow_square, Slowly(0.5, str(tmp_path))), range(8))
    assert next(results) == 0
    process = results.gi_frame.f_locals["process"]
    process._child.kill()  # so ends a process whose cluster lost its head
    with pytest.raises(ExecutorError, match="was lost"):
        list(results)
    assert list(executor.map(Job(refuse, None), [1, 2])) == [1, 2]


def test_the_process_ends_with_the_worker_and_not_before(executor: RayExecutor) -> None:
    assert list(executor.map(Job(refuse, None), [1])) == [1]
    assert executor._idle is not None
    child = executor._idle._child
    assert child.stdin is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # somebody tells all processes to stop, the worker too
        child.send_signal(number)
    assert list(executor.map(Job(refuse, None), [1, 2])) == [1, 2]
    assert executor._idle._child is child
    child.stdin.close()  # so it is for the process when the worker was killed
    assert child.wait(10) == 0


def _explodes() -> None:
    raise TypeError("this class is made in another way here")


class Unreadable:
    """What can be pickled, and not read back."""

    def __reduce__(self) -> Any:
        return _explodes, ()


def _frames(*messages: object) -> io.BytesIO:
    pipe = io.BytesIO()
    for message in messages:
        write(pipe, message)
    pipe.seek(0)
    return pipe


def test_what_cannot_be_read_back_ends_a_job_instead_of_letting_it_wait() -> None:
    process = _Process.__new__(_Process)
    process._inbox = queue.Queue()
    process._child = SimpleNamespace(stdout=_frames(Result(Unreadable()), Result(1)))  # type: ignore[assignment]
    process._listen()
    first, second = process.next(1.0), process.next(1.0)
    assert isinstance(first, Failed)
    assert "made in another way" in str(first.error)
    assert second == Result(1)

    inbox: queue.Queue[Any] = queue.Queue()
    inbox.put(TypeError("it cannot be read"))
    out = io.BytesIO()
    Driver(inbox, out, cpus=1, cache_bytes=1, wait_s=1.0).run()
    out.seek(0)
    told = read(out)
    assert isinstance(told, Failed)
    assert "it cannot be read" in str(told.error)
    inbox.put(TypeError("nor this"))
    with pytest.raises(TypeError, match="nor this"):
        Driver(inbox, out, cpus=1, cache_bytes=1, wait_s=1.0)._message(wait=False)
