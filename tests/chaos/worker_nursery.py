"""Workers that start in milliseconds: this process imports everything once, and forks one for each line.

Each child is ``groundswell worker`` as it is, with the settings of the environment. Its process number is
printed; what it says goes to ``worker-NUMBER.log`` in the folder that is the argument.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from importlib import import_module
from pathlib import Path

from sync.cli import main as groundswell

_MODULES = (
    "sync.commands.worker",
    "sync.installation",
    "sync.report.running_on",
    "sync.studio.client",
    "sync.worker.console",
    "sync.worker.loop",
)
"""what the command loads when it runs"""


def main(logs: Path) -> None:
    for name in _MODULES:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children, so none stays as a zombie
    print("ready", flush=True)
    while sys.stdin.readline():
        child = os.fork()
        if child:
            print(child, flush=True)
            continue
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        random.seed()
        with (logs / f"worker-{os.getpid()}.log").open("wb") as file, open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["groundswell", "worker"]
        try:
            groundswell()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)  # a worker that was not asked to stop has no reason to end


if __name__ == "__main__":
    main(Path(sys.argv[1]))
