"""A server that a test process started ends with that process, however it ends.

An interrupted run kills the processes of pytest-xdist before they can stop what they started.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_GUARD = """
import os, signal, sys
sys.stdin.read()  # returns when the test process has closed its end, which the system does if it is killed
try:
    os.killpg(int(sys.argv[1]), signal.SIGTERM)
except ProcessLookupError:
    pass
"""


@contextmanager
def ends_with_us(group: int) -> Iterator[None]:
    """End the process group ``group`` if this process dies before the block is left."""
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD, str(group)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()
