"""A worker process on the fake Label Studio of a file, for tests that kill it: ``kill_driver.py FOLDER``.

Looks once and ends with exit code 0. ``BLOCK_AT=place:n`` makes it write ``blocked`` into the folder and wait
for ever at the n-th time it comes to that place.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from sync.fake_studio import FakeStudio
from sync.settings import Settings
from sync.store import Store
from sync.worker import Worker


def main(folder: Path) -> int:
    told = json.loads((folder / "world.json").read_text())
    settings = Settings(**told["settings"])
    place, _, number = os.environ.get("BLOCK_AT", ":0").partition(":")
    left = int(number)

    def block(here: str) -> None:
        nonlocal left
        if here == place:
            left -= 1
            if left == 0:
                (folder / "blocked").write_text(here)
                time.sleep(600)

    while True:
        studio = FakeStudio(folder / "studio.json")
        worker = Worker(settings, Store(settings.database()), studio, checkpoint=block)
        if "INSTALL_SIGNALS" in os.environ:
            worker.install_signal_handlers()
        report = worker.look(told["project"])
        if report is not None:
            print(json.dumps({"error": report.error, "done": bool(report.review and report.review.done)}))
            return 1 if report.error else 0
        time.sleep(0.2)  # the dead worker's lease has to run out


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
