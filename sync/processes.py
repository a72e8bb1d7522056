"""Stop a process that was started as the leader of its own group, with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time

__all__ = ["stop_group"]


def stop_group(process: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> None:
    """End the group of ``process`` (made with ``start_new_session=True``): politely, then by force.

    Only this group is touched, whatever else runs under the same name.
    """
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not _send(process.pid, number):
            break
        end = time.monotonic() + wait_s
        while time.monotonic() < end and _alive(process):
            time.sleep(0.05)
    process.wait(timeout=5.0)


def _alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reap the leader, so that its zombie does not keep the group alive
    return _send(process.pid, 0)


def _send(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # on macOS, a group of zombies only
        return False
    return True
