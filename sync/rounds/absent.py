"""Labels that somebody said are not on a picture: where people tag pictures and models find the places.

A finished tag annotation names every class of its picture. So what a model finds of another class there is
wrong for sure: it is neither asked about, nor shown, exported or learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.kinds.registry import Wanted
from sync.rounds.region_rows import tags_of
from sync.rounds.task_queries import effective_annotation
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord, TaskRecord

__all__ = ["AbsentLabels", "absent_labels", "is_absent"]


@dataclass(frozen=True, slots=True)
class AbsentLabels:
    """What is not on one picture, and when somebody said so."""

    labels: frozenset[str]
    since: datetime
    annotation_id: int


def absent_labels(db: ProjectStore, wanted: Sequence[Wanted]) -> dict[int, AbsentLabels]:
    """By task: labels whose places are wanted and that are not on the picture; only tasks with any.

    Pictures on which somebody drew are left out too: what was drawn there speaks for itself.
    """
    places = {label for target in wanted for label in target.sought}
    if not places:
        return {}
    query = (
        select(AnnotationRecord)
        .join(TaskRecord, TaskRecord.id == AnnotationRecord.task_id)
        .where(TaskRecord.project_id == db.id, TaskRecord.tagged_only.is_(True), TaskRecord.broken == "")
    )
    by_task: dict[int, list[AnnotationRecord]] = {}
    with db.read() as session:
        for annotation in session.scalars(query):
            by_task.setdefault(annotation.task_id, []).append(annotation)
    found = {}
    for task in sorted(by_task):
        speaks = effective_annotation(by_task[task])
        absent = frozenset() if speaks is None else frozenset(places - set(tags_of(speaks.regions)))
        if speaks is not None and absent:
            found[task] = AbsentLabels(absent, speaks.updated_at, speaks.id)
    return found


def is_absent(absent: Mapping[int, AbsentLabels], table: PoolTable) -> npt.NDArray[np.bool_]:
    """(n,) bool: rows of a pool whose label is not on their picture."""
    labels, number = np.unique(table.label.astype(str), return_inverse=True)
    place = {str(label): i for i, label in enumerate(labels)}
    pairs = [
        task * len(place) + place[label]
        for task, said in absent.items()
        for label in said.labels
        if label in place
    ]
    return np.isin(table.task_id * len(place) + number, np.array(pairs, np.int64))
