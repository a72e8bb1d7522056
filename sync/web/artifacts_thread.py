"""The thread that keeps this machine's copy of shared files up to date while the backend runs.

It asks the database once a second which projects have new files, and fetches those. It also hands on notices:
a webhook touches a file here, and the worker that should look may run on another machine.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from sqlalchemy import select

from ml_backend.errors import GroundswellError
from sync.artifacts.opening import shared_files
from sync.settings import Settings
from sync.store.database import Store
from sync.store.schedule import Schedule
from sync.store.tables import ProjectRecord
from sync.web.access.shared import WebServices
from sync.worker.notices import Notices

__all__ = ["Follower", "start_artifacts_thread"]

_log = logging.getLogger(__name__)
_LOOK_S: Final = 1.0
_FAILED_S: Final = 10.0


class Follower:
    """What one backend has seen of the shared files, and of the notices in its data directory."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._notices = Notices(settings.data_dir)
        self._schedule = Schedule(store, settings, "")
        self._marks: dict[int, str] = {}
        self._said: dict[int, str] = {}

    def step(self) -> bool:
        """Fetch what is new and hand on notices; False when something could not be fetched.

        Then the copy stays as it was, and the rest is fetched. Raises StorageError when the database is gone.
        """
        with self._store.read() as session:
            query = select(ProjectRecord.id, ProjectRecord.artifacts_revision).order_by(ProjectRecord.id)
            marks = {row.id: row.artifacts_revision for row in session.execute(query)}
        for project_id in self._notices.new(marks):
            self._schedule.call("sync", project_id)
        is_whole = True
        for project_id in [number for number, mark in marks.items() if self._marks.get(number) != mark]:
            shared = shared_files(self._settings, self._store, project_id)
            if shared is None:
                continue
            try:
                shared.fetch()
            except (GroundswellError, OSError) as error:  # other projects do not wait for this one
                is_whole = False
                if self._said.get(project_id) != str(error):
                    _log.error("project %s: serves what is here: %s", project_id, error)
                self._said[project_id] = str(error)
                continue
            self._said.pop(project_id, None)
            self._marks[project_id] = marks[project_id]
        return is_whole


def start_artifacts_thread(web: WebServices) -> threading.Thread | None:
    """Start following, where machines share files. The thread ends with its process, at any moment."""
    if not web.settings.artifacts_url:
        return None
    thread = threading.Thread(target=_run, args=(web,), name="artifacts", daemon=True)
    thread.start()
    return thread


def _run(web: WebServices) -> None:
    follower: Follower | None = None
    while True:
        wait_s = _LOOK_S
        try:
            follower = follower or Follower(web.settings, web.store)
            if not follower.step():
                wait_s = _FAILED_S
        except GroundswellError as error:
            _log.warning("shared files are not followed: %s", error)
            wait_s = _FAILED_S
        except Exception:
            _log.exception("following shared files failed")
            wait_s = _FAILED_S
        time.sleep(wait_s)
