"""A worker process for tests that kill it: ``kill_driver.py FOLDER``.

The folder's ``world.json`` says which project, with which settings; its Label Studio is the fake of a file,
or a real one where the settings name one. Looks once and ends with exit code 0; with ``RUN_ON`` works until
it is stopped. ``BLOCK_AT=place:n`` makes it write ``blocked`` into the folder and wait for ever at the n-th
time it comes to that place, ``BLOCK_AFTER=call:n`` when the n-th such call of Label Studio has come back.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sync.settings import Settings
from sync.store.database import Store, database_now
from sync.store.tables import LeaseRecord
from sync.studio.client import Studio
from sync.worker.loop import Worker
from tests.fakes.label_studio import FakeStudio


class Blocker:
    """Waits for ever at the n-th time at a place; the environment says ``place:n``."""

    def __init__(self, folder: Path, variable: str) -> None:
        self.place, _, number = os.environ.get(variable, ":0").partition(":")
        self._left = int(number)
        self._mark = folder / "blocked"

    def come(self, here: str) -> None:
        if here == self.place:
            self._left -= 1
            if self._left == 0:
                self._mark.write_text(here)
                time.sleep(600)

    def behind(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, and then the place."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            answer = call(*args, **kwargs)
            self.come(self.place)
            return answer

        return wrapped


def wait_for_leases(store: Store, ttl_s: float) -> None:
    """Wait until every lease of a killed worker has run out.

    They do so one after another. A look that comes between finds a training that seems to go on, and ends
    without one.
    """
    while True:
        with store.read() as session:
            fresh = LeaseRecord.heartbeat_at > database_now(session) - timedelta(seconds=ttl_s)
            held = session.scalars(select(LeaseRecord.name).where(LeaseRecord.holder != "", fresh)).all()
        if not held:
            return
        time.sleep(0.2)


def main(folder: Path) -> int:
    told = json.loads((folder / "world.json").read_text())
    settings = Settings(**told["settings"])
    at, after = Blocker(folder, "BLOCK_AT"), Blocker(folder, "BLOCK_AFTER")
    while True:
        studio: Any
        if settings.studio_token.get_secret_value():
            studio = Studio(settings.studio_url, settings.studio_token.get_secret_value())
        else:
            studio = FakeStudio(folder / "studio.json")
        if after.place:
            setattr(studio, after.place, after.behind(getattr(studio, after.place)))
        store = Store(settings.database())
        worker = Worker(settings, store, studio, checkpoint=at.come)
        if "INSTALL_SIGNALS" in os.environ:
            worker.install_signal_handlers()
        if "RUN_ON" in os.environ:
            worker.run()
            return 0
        wait_for_leases(store, settings.lease_ttl_s)
        report = worker.look(told["project"])
        if report is not None:
            print(json.dumps({"error": report.error, "done": bool(report.review and report.review.done)}))
            return 1 if report.error else 0
        time.sleep(0.2)  # another worker was faster


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
