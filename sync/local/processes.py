"""Stop processes that lead a group of their own, with everything they started; nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["start_time", "stop_group", "stop_left_over"]


def start_time(pid: int) -> str | None:
    """When the process started, as an opaque text; None when there is none (or it is a zombie).

    Number and start time together name a process for good: numbers are used again.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            return None
        return None if fields[0] == "Z" else fields[19]
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


def stop_group(process: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> None:
    """End the group of ``process`` (made with ``start_new_session=True``): politely, then by force."""

    def alive() -> bool:
        process.poll()  # reap the leader, so that its zombie does not keep the group alive
        return _send(process.pid, 0)

    _end(process.pid, alive, grace_s)
    process.wait(timeout=5.0)


def stop_left_over(pid: int, started: str | None, *, grace_s: float = 10.0) -> bool:
    """End the group that this process leads, if it is still the one that started then. True if it was."""
    if started is None or start_time(pid) != started:
        return False
    _end(pid, lambda: start_time(pid) == started, grace_s)
    return True


def _end(group: int, alive: Callable[[], bool], grace_s: float) -> None:
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not _send(group, number):
            return
        end = time.monotonic() + wait_s
        while time.monotonic() < end and alive():
            time.sleep(0.05)


def _send(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # on macOS: only zombies are left in the group
        return False
    return True
