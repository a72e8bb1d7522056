"""Jobs of milliseconds for the tests of ``child_process``: started as a program, one per ``do`` of the
request.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ml_backend.errors import BadImage
from ml_backend.learners.base import Progress
from ml_backend.learners.child_process import run_as_child


def work(request: Any, out: Path, progress: Progress) -> Any:
    progress(0.0, str(os.getpid()))
    if request["do"] == "report":
        print("a library says something")
        print('{"and": "this is JSON"}')
        out.write_text(request["text"])
        return {"text": request["text"], "nice": os.nice(0)}
    if request["do"] == "refuse":
        raise BadImage("too dark", field="image", hint="Take another")
    if request["do"] == "crash":
        sys.stderr.write("out of luck")
        raise RuntimeError("a bug")
    if request["do"] == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)
    return None


if __name__ == "__main__":
    run_as_child(work, nice=1)
