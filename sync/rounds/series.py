"""Series: pictures that belong together (frames of a film, tiles of one plate, photographs of one patient).

Near-duplicates on both sides of the test split make its figures too good. The setting ``split_by`` names the
field of the task data that says which series a task belongs to. A test split then takes whole series, and
nothing of them is trained on, however late it is finished.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from sqlalchemy import select

from sync.store.project_store import ProjectStore
from sync.store.tables import TaskRecord

__all__ = ["draw_series", "in_series_of", "series_of"]


def series_of(db: ProjectStore, field: str) -> dict[int, str]:
    """The series of each task that names one in this field of its data; empty for no field."""
    if not field:
        return {}
    query = select(TaskRecord.id, TaskRecord.data).where(TaskRecord.project_id == db.id)
    with db.read() as session:
        named = ((task, data.get(field)) for task, data in session.execute(query))
        return {task: str(value) for task, value in named if value not in (None, "")}


def in_series_of(series: Mapping[int, str], tasks: Collection[int]) -> set[int]:
    """All tasks of the series that some of ``tasks`` belong to, without these tasks themselves."""
    theirs = {series[task] for task in tasks if task in series}
    return {task for task, name in series.items() if name in theirs} - set(tasks)


def draw_series(
    tasks: Sequence[int], series: Mapping[int, str], size: int, rng: np.random.Generator
) -> list[int]:
    """About ``size`` of the tasks in whole series, drawn at random; a task without a series stands alone.

    A series that would make more than twice ``size`` is passed over, and one series always stays outside.
    Where all are that large, the smallest is taken. The result is empty when all tasks are of one series.
    """
    members: dict[str | int, list[int]] = {}
    for task in sorted(tasks):
        members.setdefault(series.get(task, task), []).append(task)
    names = list(members)
    taken: list[int] = []
    chosen = 0
    for place in rng.permutation(len(names)).tolist():
        group = members[names[place]]
        if len(taken) >= size or chosen + 1 == len(names):
            break
        if len(taken) + len(group) > 2 * size:
            continue
        taken += group
        chosen += 1
    if not taken and len(names) > 1:
        return min(members.values(), key=len)
    return taken
