"""Stop processes that lead a group of their own, with everything they started; nothing else."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import psutil

__all__ = ["is_running", "start_time", "stop_group", "stop_left_over"]

_KILL_S = 5.0
_CLOCK_STEP_S = 2.0
"""start times are computed from the time of the boot, so they move a little when the clock is set"""


def start_time(pid: int) -> float | None:
    """When the process started, in seconds since the epoch; None when there is none (or it is a zombie)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_running(pid: int, started: float | None) -> bool:
    """Is the process that started then still running?

    A process number is used again after the process ends; number and start time together are unique.
    """
    now = start_time(pid)
    return now is not None and started is not None and abs(now - started) < _CLOCK_STEP_S


def stop_group(process: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> None:
    """End ``process`` (made with ``start_new_session=True``) and all it started: SIGTERM, then SIGKILL."""

    def reap() -> None:
        process.poll()  # without this an ended child stays as a zombie

    _end(process.pid, reap, grace_s)
    process.wait(timeout=_KILL_S)


def stop_left_over(pid: int, started: float | None, *, grace_s: float = 10.0) -> bool:
    """End the group that this process leads, if it is still the one that started then. True if it was."""
    if not is_running(pid, started):
        return False
    _end(pid, lambda: None, grace_s)
    return True


def _end(leader: int, reap: Callable[[], None], grace_s: float) -> None:
    reap()
    # asked before the first signal: the tree is lost when a parent ends, the group is not
    known = {process.pid: process for process in _tree(leader)}
    for send, wait_s in ((psutil.Process.terminate, grace_s), (psutil.Process.kill, _KILL_S)):
        end = time.monotonic() + wait_s
        asked: set[int] = set()
        while True:
            reap()
            known |= {process.pid: process for process in _group(leader)}
            alive = [process for process in known.values() if _is_alive(process)]
            if not alive:
                return
            if time.monotonic() > end:
                break
            for process in alive:
                if process.pid not in asked:
                    asked.add(process.pid)
                    _send(process, send)
            time.sleep(0.05)


def _tree(leader: int) -> list[psutil.Process]:
    """The process and its descendants, also those that left its group."""
    try:
        top = psutil.Process(leader)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _group(leader: int) -> list[psutil.Process]:
    """Processes of the group, also those whose parents are gone."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getpgid(pid) == leader:
                found.append(psutil.Process(pid))
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue  # ended meanwhile, or somebody else's
    return found


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    try:
        send(process)
    except psutil.NoSuchProcess:
        return
