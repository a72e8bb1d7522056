"""Servers of an interrupted test run do not stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
TESTS = """
import subprocess, sys
from tests.guard import ends_with_us
server = subprocess.Popen(["sleep", "600"], start_new_session=True)
with ends_with_us(server.pid):
    print(server.pid, flush=True)
    sys.stdin.read()
server.kill()
server.wait()
"""


def start() -> tuple[subprocess.Popen[str], psutil.Process]:
    tests = subprocess.Popen(
        [sys.executable, "-c", TESTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert tests.stdout is not None
    return tests, psutil.Process(int(tests.stdout.readline()))


def test_a_server_ends_when_its_test_process_is_killed() -> None:
    tests, server = start()
    os.kill(tests.pid, signal.SIGKILL)
    tests.communicate()
    deadline = time.monotonic() + 30
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server outlived the tests"
        time.sleep(0.05)


def test_an_ordinary_end_leaves_the_server_to_the_tests() -> None:
    tests, server = start()
    assert server.is_running()
    tests.communicate()
    assert tests.returncode == 0
    assert not server.is_running()
