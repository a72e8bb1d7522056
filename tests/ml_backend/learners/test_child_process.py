"""The runner of jobs in child processes: what comes back, how a child ends, and who ends with whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.errors import BadImage, ModelError
from ml_backend.learners import child_process
from ml_backend.learners.child_process import child_main, run_child, training_environment

JOBS = "tests.ml_backend.learners.child_jobs"
Child = subprocess.Popen[str]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Child]]:
    """Every child process that was started."""
    started: list[Child] = []
    real = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Child:
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(child_process.subprocess, "Popen", start)
    yield started
    assert all(child.poll() is not None for child in started)


def test_a_report_comes_back_and_the_child_exits_with_0(tmp_path: Path, children: list[Child]) -> None:
    lines: list[tuple[float, str]] = []
    request = {"do": "report", "text": "grüße"}
    report = run_child(JOBS, request, tmp_path / "out", lambda share, line: lines.append((share, line)))
    assert report["text"] == "grüße"
    assert report["nice"] >= 1
    assert (tmp_path / "out").read_text() == "grüße"
    assert lines == [(0.0, str(children[0].pid))]
    assert children[0].returncode == 0


def test_a_deliberate_error_comes_back_as_it_was(tmp_path: Path, children: list[Child]) -> None:
    with pytest.raises(BadImage) as caught:
        run_child(JOBS, {"do": "refuse"}, tmp_path, lambda *_: None)
    assert (caught.value.message, caught.value.field, caught.value.hint) == (
        "too dark",
        "image",
        "Take another",
    )
    assert children[0].returncode == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "crash"}, r"exit code 1: .*RuntimeError: a bug"),
        ({"do": "die"}, r"killed by SIGSEGV \(signal 11\)"),
    ],
)
def test_an_accident_says_how_the_child_ended(tmp_path: Path, request_: dict[str, str], words: str) -> None:
    with pytest.raises(ModelError, match=f"(?s){words}"):
        run_child(JOBS, request_, tmp_path, lambda *_: None)


def test_a_job_that_takes_too_long_is_stopped(tmp_path: Path, children: list[Child]) -> None:
    with pytest.raises(ModelError, match="longer than 1 s") as caught:
        run_child(JOBS, {"do": "sleep"}, tmp_path, lambda *_: None, timeout_s=1.0)
    assert "memory" not in caught.value.hint
    assert children[0].returncode == -signal.SIGKILL


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from ml_backend.learners.child_process import run_child\n"
        f"out = Path({str(tmp_path)!r})\n"
        f"run_child({JOBS!r}, {{'do': 'sleep'}}, out, lambda share, line: print(line, flush=True))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(300):
        if not is_alive(child):
            break
        time.sleep(0.1)
    assert not is_alive(child)


def test_wrong_arguments_are_an_error_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert child_main(lambda *_: None, ["one"]) == 2
    assert "two arguments" in capsys.readouterr().err


def test_the_environment_of_a_training_is_that_of_tuned_servers() -> None:
    from ml_backend.devices import TUNED_MALLOC

    found = training_environment({"HOME": "/x", "OMP_WAIT_POLICY": "ACTIVE"})
    assert found.items() >= TUNED_MALLOC.items()
    assert found["OMP_WAIT_POLICY"] == "ACTIVE"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or ") Z" not in status.read_text()
