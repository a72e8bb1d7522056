"""Makes previews for the dashboard, one per project at a time, beside what the server does.

A preview lies in ``pages/preview.json`` of the project until another one is made. While it is made,
``pages/preview-making.json`` says how far it is, so that every process of the server can tell. A process that
died leaves that file behind; it counts as long as it is young.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.artifacts.files import read_json, storage_errors, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import GroundswellError
from sync.report.preview_data import make_preview
from sync.rounds.project import open_project, registered
from sync.web.access.shared import WebServices

__all__ = ["Making", "Previews"]

_log = logging.getLogger(__name__)
_ALIVE_S = 120.0
"""Between two plays of the largest pools lie seconds; what tells nothing for so long has died."""


@dataclass(frozen=True, slots=True)
class Making:
    """Whether a preview is made now, how far it is (0..1), and why the last try failed."""

    now: bool = False
    share: float = 0.0
    line: str = ""
    error: str = ""


class Previews:
    """Previews of all projects. Used by several threads at once."""

    def __init__(self, web: WebServices) -> None:
        self._web = web
        self._lock = threading.Lock()

    def stored(self, project_id: int) -> dict[str, Any] | None:
        """What was made last; None before the first one. Raises BadInput for an unknown project."""
        self._check(project_id)
        try:
            found: dict[str, Any] = read_json(self._folder(project_id) / "preview.json")
        except FileNotFoundError:
            return None
        return found

    def making(self, project_id: int) -> Making:
        """The state of now. Raises BadInput for an unknown project."""
        self._check(project_id)
        told = self._told(project_id)
        if not told:
            return Making()
        young = time.time() - float(told["at"]) < _ALIVE_S
        error = str(told["error"])
        if not error and not young:
            error = "It was interrupted."
        return Making(not error, float(told["share"]), str(told["line"]), error)

    def begin(self, project_id: int) -> bool:
        """Start making one; False when that happens already. Raises BadInput for an unknown project."""
        with self._lock:
            if self.making(project_id).now:
                return False
            self._tell(project_id, 0.0, "starting")
        threading.Thread(target=self._make, args=(project_id,), name="preview", daemon=True).start()
        return True

    def _make(self, project_id: int) -> None:
        web = self._web
        try:
            opened = open_project(web.settings, web.store, web.studio, project_id, images=web.services.images)
            data = make_preview(
                opened.db,
                opened.config,
                opened.settings,
                opened.paths,
                opened.images,
                {},
                apart=True,
                report=lambda share, line: self._tell(project_id, share, line),
            )
            write_json(self._folder(project_id) / "preview.json", data)
            with storage_errors(self._folder(project_id)):
                self._note(project_id).unlink(missing_ok=True)
        except GroundswellError as error:
            self._tell(project_id, 0.0, "", error=str(error))
        except Exception as error:  # whoever waits must hear of it
            _log.exception("preview of project %s", project_id)
            self._tell(project_id, 0.0, "", error=f"unexpected: {error!r}; the log of the backend says more")

    def _check(self, project_id: int) -> None:
        registered(self._web.settings, self._web.store, project_id)

    def _folder(self, project_id: int) -> Path:
        return ProjectPaths(self._web.settings.data_dir, project_id).root / "pages"

    def _note(self, project_id: int) -> Path:
        return self._folder(project_id) / "preview-making.json"

    def _told(self, project_id: int) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = read_json(self._note(project_id))
        except FileNotFoundError:
            return {}
        return found

    def _tell(self, project_id: int, share: float, line: str, *, error: str = "") -> None:
        value = {"at": time.time(), "share": round(share, 3), "line": line, "error": error}
        write_json(self._note(project_id), value)
