"""Health of a worker: it fails when the worker is dead, stopped or stuck, and not before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sync.cli import build_app
from sync.worker.signs import FOLDER, SignsOfLife, worker_health

STUCK_S = 100.0


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def __call__(self) -> float:
        return self.at


def state(folder: Path, clock: Clock) -> tuple[bool, str]:
    found = worker_health(folder, stuck_s=STUCK_S, now=clock)
    return found.ok, found.line


def test_dead_stuck_and_working_are_told_apart(tmp_path: Path) -> None:
    clock = Clock()
    assert not state(tmp_path, clock)[0], "no worker has started"
    signs = SignsOfLife(tmp_path, 10.0, now=clock)
    signs.alive("sync", None)
    signs.write()
    assert state(tmp_path, clock) == (
        True,
        f"worker {os.getpid()} on {os.uname().nodename} waits for the next look",
    )
    clock.at += 29
    assert state(tmp_path, clock)[0]
    clock.at += 2  # three signs are missing
    ok, line = state(tmp_path, clock)
    assert not ok
    assert "dead or stopped: no sign of life for 31 s" in line

    signs.alive("train", 7)
    signs.alive("sync", None)
    signs.write()
    assert "works on project 7" in state(tmp_path, clock)[1]
    clock.at += 101  # the thread goes on writing, the work does not move
    signs.alive("sync", None)  # and looks at nothing do not hide that
    signs.write()
    ok, line = state(tmp_path, clock)
    assert (ok, "stuck at project 7: its train jobs have not moved for 101 s" in line) == (False, True)
    signs.alive("train", 7)
    signs.write()
    assert state(tmp_path, clock)[0]
    signs.alive("train", None)
    signs.write()
    assert "waits" in state(tmp_path, clock)[1]


def test_workers_of_other_machines_and_of_yesterday_do_not_count(tmp_path: Path) -> None:
    clock = Clock()
    SignsOfLife(tmp_path, 10.0, now=clock).write()
    (path,) = (tmp_path / FOLDER).iterdir()
    other = path.with_name("elsewhere-1.json")
    other.write_text(path.read_text().replace(os.uname().nodename, "elsewhere"))
    path.unlink()
    assert not state(tmp_path, clock)[0]
    assert worker_health(tmp_path, stuck_s=STUCK_S, anywhere=True, now=clock).ok
    os.utime(other, (clock.at - 90_000, clock.at - 90_000))
    with SignsOfLife(tmp_path, 10.0, now=clock):
        assert [found.name for found in (tmp_path / FOLDER).iterdir()] == [path.name]
    assert list((tmp_path / FOLDER).iterdir()) == [], "a worker that ends takes its file with it"
    path.write_text("{")
    assert not state(tmp_path, clock)[0]
    path.unlink()
    path.mkdir()  # what cannot be read or deleted keeps no worker from starting
    os.utime(path, (clock.at - 90_000, clock.at - 90_000))
    other.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sync.worker.signs.socket.gethostname", lambda: "third")
        with SignsOfLife(tmp_path, 10.0, now=clock):
            assert path.exists()


CODE = """
import sys, time
from pathlib import Path
from sync.worker.signs import SignsOfLife
with SignsOfLife(Path(sys.argv[1]), 0.2):
    print("started", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "started\n"
    yield started
    started.kill()
    started.communicate()


def asked(tmp_path: Path, *words: str) -> int:
    return (
        CliRunner().invoke(build_app(), ["health", "worker", "--data-dir", str(tmp_path), *words]).exit_code
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_health_fails_after_a_kill_and_after_a_stop(
    process: subprocess.Popen[str], tmp_path: Path, how: signal.Signals
) -> None:
    assert asked(tmp_path) == 0
    process.send_signal(how)
    until = time.monotonic() + 60  # three missed signs are .6 s; the rest is for a busy machine
    while asked(tmp_path) == 0:
        assert time.monotonic() < until, "it never failed"
        time.sleep(0.1)
    if how == signal.SIGSTOP:
        process.send_signal(signal.SIGCONT)
        while asked(tmp_path):
            assert time.monotonic() < until, "it never came back"
            time.sleep(0.1)


def test_the_command_answers_programs_too(tmp_path: Path) -> None:
    asked = ["health", "worker", "--data-dir", str(tmp_path), "--json"]
    nobody = CliRunner().invoke(build_app(), asked)
    assert nobody.exit_code == 1
    assert json.loads(nobody.stdout)["ok"] is False
    with SignsOfLife(tmp_path, 10.0):
        somebody = CliRunner().invoke(build_app(), asked)
    assert somebody.exit_code == 0
    assert json.loads(somebody.stdout)["ok"] is True
