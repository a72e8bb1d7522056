"""Leases between processes, on both kinds of database: turns, kill -9 of the holder, a pause too long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sync.store.database import Store
from sync.store.lease import Lease
from sync.store.tables import LeaseRecord, ProjectRecord

NAME = "project/1"
DRIVER = Path(__file__).with_name("lease_driver.py")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(database: str) -> Iterator[Start]:
    """Starts processes on the test's database and ends them with it."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "PYTHONPATH": str(DRIVER.parents[3]), "OMP_NUM_THREADS": "1"}

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), database, NAME, *words],
            env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def titled(store: Store) -> Store:
    """A store with project 1, titled 0."""
    with store.write() as session:
        session.add(ProjectRecord(id=1, key="1.0", title="0", label_config="<View/>"))
    return store


def tell(process: subprocess.Popen[str], line: str) -> str:
    """Give an order, return the answer."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return hear(process)


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, process.communicate()[1]
    return line


def title(store: Store) -> str:
    with store.read() as session:
        return session.get_one(ProjectRecord, 1).title


def take_over(store: Store) -> Lease:
    """Try until the lease is ours."""
    lease = Lease(store, NAME, "the successor", ttl_s=2.0, heartbeat_s=0)
    until = time.monotonic() + 60
    while not lease.acquire():
        assert time.monotonic() < until, "the lease never came free"
        time.sleep(0.05)
    return lease


def test_processes_that_fight_take_turns(start: Start, titled: Store) -> None:
    turns = 12
    fighters = [start("turns", str(turns)) for _ in range(2)]
    for fighter in fighters:
        assert hear(fighter) == "ready"
    fences = []
    for fighter in fighters:
        assert fighter.stdin is not None
        print("go", file=fighter.stdin, flush=True)
    for fighter in fighters:
        out, complaints = fighter.communicate(timeout=120)
        assert fighter.returncode == 0, complaints
        fences += json.loads(out)
    assert sorted(fences) == list(range(min(fences), min(fences) + 2 * turns))  # each had a number of its own
    assert title(titled) == str(2 * turns)


def test_kill_9_of_the_holder_inside_a_write(start: Start, titled: Store) -> None:
    holder = start("hold", "0.2")
    assert hear(holder) == "held"
    assert tell(holder, "write first") == "written"
    rival = Lease(titled, NAME, "the rival", ttl_s=2.0, heartbeat_s=0)
    assert not any(rival.acquire() for _ in range(20))
    assert tell(holder, "tear torn") == "inside"
    with titled.read() as session:
        held = session.get_one(LeaseRecord, NAME).fence
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lease = take_over(titled)
    assert lease.fence.number == held + 1
    assert title(titled) == "first"  # what the dead one had not committed is gone
    with titled.write(lease.fence) as session:
        session.get_one(ProjectRecord, 1).title = "second"
    assert title(titled) == "second"


def test_a_holder_that_was_paused_for_too_long_writes_nothing(start: Start, titled: Store) -> None:
    holder = start("hold", "0")  # no heartbeat: the pause must not come inside one and keep the database busy
    assert hear(holder) == "held"
    os.kill(holder.pid, signal.SIGSTOP)
    lease = take_over(titled)
    with titled.write(lease.fence) as session:
        session.get_one(ProjectRecord, 1).title = "of the successor"
    os.kill(holder.pid, signal.SIGCONT)
    assert tell(holder, "write late") == "lost"
    assert title(titled) == "of the successor"
