"""What the routes of the dashboard show: figures kept while nothing changed, and the state of now as JSON."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Integer, func, select

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import BadInput
from sync.dashboard.collect import collect_project, fingerprint, project_record
from sync.dashboard.figures import ProjectFigures
from sync.dashboard.live import LiveState, live_state
from sync.dashboard.render import status_line
from sync.dashboard.wording import STEP_NAMES, about, duration
from sync.report.choose_clusters import Limits
from sync.report.collect_clusters import write_cluster_page
from sync.report.status_figures import project_titles
from sync.rounds.project import open_project
from sync.store.tables import TaskRecord
from sync.web.access.shared import WebServices

__all__ = ["ListRow", "Pages", "etag_of", "live_json"]

_SIGNS = {"done": "✓", "now": "▸", "asking": "?", "failed": "✕", "next": "·"}
_MOST_COMPARED = 20_000
"""comparisons of tasks that are kept in memory"""


@dataclass(frozen=True, slots=True)
class ListRow:
    """A project in the list of all."""

    id: int
    title: str
    tasks: int
    finished: int
    troubles: str
    live: LiveState


@dataclass(slots=True)
class _Kept:
    """Figures of a project, and what they were made of; the lock lets one thread collect them."""

    digest: str = ""
    figures: ProjectFigures | None = None
    compared: dict[object, object] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Pages:
    """Figures of all projects. Used by several threads at once."""

    def __init__(self, web: WebServices) -> None:
        self._web = web
        self._kept: dict[int, _Kept] = {}
        self._lock = threading.Lock()
        self._clusters = threading.Lock()

    def digest(self, project_id: int) -> str:
        """Changes with the figures. Raises BadInput for a project that does not take part."""
        project_record(self._web.store, project_id)
        return fingerprint(self._web.settings, self._web.store, project_id)

    def figures(self, project_id: int) -> tuple[str, ProjectFigures]:
        """The figures and their digest. Raises what ``collect_project`` raises."""
        with self._lock:
            kept = self._kept.setdefault(project_id, _Kept())
        with kept.lock:
            digest = self.digest(project_id)
            if kept.figures is None or kept.digest != digest:
                if len(kept.compared) > _MOST_COMPARED:
                    kept.compared.clear()
                web = self._web
                kept.figures = collect_project(web.settings, web.store, project_id, kept=kept.compared)
                kept.digest = digest
            return digest, kept.figures

    def live(self, project_id: int) -> LiveState:
        """What happens in a project now. Raises BadInput for one that does not take part."""
        record = project_record(self._web.store, project_id)
        return live_state(self._web.settings, self._web.store, record)

    def rows(self) -> list[ListRow]:
        """All projects, in the order of their numbers."""
        store = self._web.store
        titles = project_titles(store)
        query = select(TaskRecord.project_id, func.count(), func.sum(TaskRecord.finished.cast(Integer)))
        with store.read() as session:
            counted = session.execute(query.group_by(TaskRecord.project_id)).all()
        counts = {int(number): (int(tasks), int(finished or 0)) for number, tasks, finished in counted}
        rows = []
        for number, title in titles.items():
            record = project_record(store, number)
            tasks, finished = counts.get(number, (0, 0))
            live = live_state(self._web.settings, store, record)
            wrong = "The last look failed" if record.error else ""
            rows.append(ListRow(number, title, tasks, finished, wrong, live))
        return rows

    def cluster_page(self, project_id: int) -> Path:
        """File with the page of clusters of now; made when something changed, which may take a minute.

        Raises BadInput before the first clustered round and while another request makes one.
        """
        digest, _ = self.figures(project_id)
        opened = open_project(
            self._web.settings,
            self._web.store,
            self._web.studio,
            project_id,
            images=self._web.services.images,
        )
        out = opened.paths.root / "pages" / f"clusters-{digest}.html"
        if out.exists():
            return out
        if not self._clusters.acquire(blocking=False):
            raise BadInput("a page of clusters is being made", field="project", hint="Try again in a minute")
        try:
            limits = Limits(clusters=60, pictures=6)
            write_cluster_page(
                opened.db, opened.settings, opened.paths, opened.images, {}, out, limits=limits
            )
            with storage_errors(out):
                for old in out.parent.glob("clusters-*.html"):
                    if old != out:
                        old.unlink(missing_ok=True)
        finally:
            self._clusters.release()
        return out


def live_json(live: LiveState) -> dict[str, Any]:
    """The state of now as the page's script shows it: texts, and one number."""
    return {
        "round": str(live.round or ""),
        "busy": bool(live.step),
        "share": live.share,
        "step": STEP_NAMES.get(live.step, live.step),
        "line": live.line,
        "left": about(live.left_s),
        "left_from": f"(from {live.left_from})" if live.left_from else "",
        "status": status_line(live),
        "paused": live.paused,
        "steps": [
            {
                "name": step.name,
                "state": step.state,
                "sign": _SIGNS[step.state],
                "says": {"asking": "people are asked", "failed": "failed"}.get(
                    step.state, duration(step.seconds) if step.seconds is not None else ""
                ),
            }
            for step in live.steps
        ],
    }


def etag_of(value: Any) -> str:
    """A digest of JSON, as an entity tag without its quotes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]
