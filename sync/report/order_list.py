"""The order in which the tasks of a project are served, for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml_backend.artifacts.order_lines import why
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.task_orders import read_order
from ml_backend.errors import BadInput
from sync.rounds.round_records import trained_round
from sync.rounds.start_order import START
from sync.rounds.task_queries import open_task_ids
from sync.settings import Settings
from sync.store.database import Store
from sync.store.project_store import ProjectStore
from sync.store.tables import ProjectRecord

__all__ = ["OrderLine", "served_next"]


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One task: its place among the unfinished ones (from 1), and why."""

    place: int
    of: int
    task: int
    score: float
    doubt: float
    doubts: Mapping[str, float]
    similar: int
    drawn_at_random: bool
    chance: float
    why: str


def served_next(
    settings: Settings, store: Store, project_id: int, *, task: int | None = None, top: int = 20
) -> list[OrderLine]:
    """The ``top`` unfinished tasks that are served first, or the one ``task``.

    Raises BadInput for a project or task that is not known, and while there is no order.
    """
    with store.read() as session:
        record = session.get(ProjectRecord, project_id)
    if record is None:
        raise BadInput(
            f"project {project_id} does not take part", field="project", hint="See groundswell projects"
        )
    db = ProjectStore(record.id, record.key, record.title, store, None)
    shown = trained_round(db)
    name = START if shown is None else shown.model_version
    order = read_order(ProjectPaths(settings.data_dir, project_id).order(name))
    if order is None:
        raise BadInput(
            f"project {project_id} has no order yet",
            field="project",
            hint="It is made by the worker, when it looks at the project",
        )
    waiting = [found for found in open_task_ids(db) if order.row(found) is not None]
    if task is not None and task not in waiting:
        raise BadInput(
            f"task {task} has no place in the order of project {project_id}",
            field="explain",
            hint="Is it finished, or of another project?",
        )
    lines = []
    for found in [task] if task is not None else waiting:
        entry = order.entry(found, among=waiting) if task is not None else order.entry(found)
        assert entry is not None, "only tasks of the order are asked for"
        doubt = entry.doubt if entry.doubt == entry.doubt else 0.0  # before the first model there is none
        lines.append(
            OrderLine(
                entry.place, len(waiting), found, entry.score, doubt, entry.doubts, entry.similar,
                entry.explored, entry.inclusion, why(entry, order.about),
            )
        )  # fmt: skip
    lines.sort(key=lambda line: line.score)
    if task is not None:
        return lines
    return [
        OrderLine(place, line.of, line.task, line.score, line.doubt, line.doubts, line.similar,
                  line.drawn_at_random, line.chance, line.why)
        for place, line in enumerate(lines[:top], start=1)
    ]  # fmt: skip
