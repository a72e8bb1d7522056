"""Which pictures of a ``classes`` project a person gets, in which order, and what the model suggests."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_backend.artifacts.task_orders import TaskOrder
from ml_backend.caches import ByteCache
from ml_backend.errors import BadInput, StorageError
from ml_backend.label_studio.label_config import LabelConfig
from ml_backend.services import Services
from sync.review.outbox import CLASSES
from sync.settings import Settings
from sync.store.review_tables import CardRecord, OutboxRecord
from sync.store.tables import AnnotationRecord, TaskRecord
from sync.web.review.sessions import Person

__all__ = ["ORDERS", "ClassRanks", "ClassTasks", "OpenPicture"]

ORDERS: Final = ("project", "entropy", "surest")
"""as Label Studio serves them; most doubtful first; those first whose best class is most probable"""
_CACHE_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class OpenPicture:
    """A task that nobody has finished; ``is_held``: this person holds it already.

    ``holders``: who only holds it ahead, and from whom it would have to be taken.
    """

    id: int
    is_held: bool
    holders: tuple[str, ...] = ()


class ClassRanks:
    """Places of tasks in each order, kept in memory per model version. Safe under threads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._kept: ByteCache[tuple[str, str, str], dict[int, float]] = ByteCache(
            _CACHE_BYTES, lambda ranks: 100 * len(ranks) + 100
        )

    def version(self, project_id: int) -> str:
        """The newest version that looked at the project's pictures, "" when none did."""
        found = self._services.pools.versions(project_id)
        return found[0] if found else ""

    def of(self, project_id: int, order: str) -> Mapping[int, float]:
        """Rank of each task that the model looked at, lowest first; empty when it is not known.

        Raises StorageError when a pool or an order is damaged.
        """
        version = self.version(project_id)
        if not version:
            return {}
        held = self._services.orders.of(project_id, version)
        if held is None:
            return {}
        name = (f"{project_id}:{version}", f"{held.key}:{len(held)}", order)
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                found = self._ranks(project_id, version, held, order)
                self._kept.put(name, found)
        return found

    def _ranks(self, project_id: int, version: str, held: TaskOrder, order: str) -> dict[int, float]:
        tasks = held.task_id.tolist()
        if order == "project":
            return dict(zip(tasks, held.score.tolist(), strict=True))
        if order == "entropy":
            doubts = [json.loads(str(text) or "{}").get("entropy", 0.0) for text in held.doubts]
            return {task: -float(doubt) for task, doubt in zip(tasks, doubts, strict=True)}
        tables = self._services.pools.of(project_id, version).read(tasks)
        return {task: -float(table.score.max()) for task, table in tables.items() if len(table)}


class ClassTasks:
    """The open pictures of one project.

    Parameters
    ----------
    config : label config with one target of kind ``classes``
    settings : with the project's own options
    services : where pools are read
    ranks : places of tasks, shared by all requests
    """

    orders = ORDERS

    def __init__(
        self, config: LabelConfig, settings: Settings, services: Services, ranks: ClassRanks
    ) -> None:
        self._target = config.targets[0]
        self._settings = settings
        self._services = services
        self._ranks = ranks

    def open(self, session: Session, person: Person, *, order: str, now: datetime) -> list[OpenPicture]:
        """The pictures that this person may be given now. Raises BadInput for an unknown order.

        Pictures that the model has not looked at come last, in the order of their tasks.
        """
        return [task for task in self._tasks(session, person, order, now) if not task.holders]

    def held_ahead(self, session: Session, person: Person, *, order: str, now: datetime) -> list[OpenPicture]:
        """The pictures that others only hold ahead; those that they come to last are first."""
        return [task for task in self._tasks(session, person, order, now) if task.holders][::-1]

    def is_answered(self, session: Session, person: Person, task_id: int) -> bool:
        """Whether another person named the classes of a picture on the page."""
        query = select(OutboxRecord.id).where(
            OutboxRecord.project_id == person.project_id,
            OutboxRecord.mode == CLASSES,
            OutboxRecord.task_id == task_id,
            OutboxRecord.person != person.id,
            OutboxRecord.withdrawn.is_(False),
            OutboxRecord.is_skip.is_(False),
        )
        return session.scalars(query.limit(1)).first() is not None

    def _tasks(self, session: Session, person: Person, order: str, now: datetime) -> list[OpenPicture]:
        if order and order not in ORDERS:
            raise BadInput(f"{order!r} is no order", field="order", hint=f"One of {', '.join(ORDERS)}")
        project = person.project_id
        unfinished = select(TaskRecord.id).where(
            TaskRecord.project_id == project,
            TaskRecord.finished.is_(False),
            TaskRecord.broken == "",
            TaskRecord.image_error == "",
        )
        ids = set(session.scalars(unfinished))
        ids -= set(
            session.scalars(
                select(AnnotationRecord.task_id).where(
                    AnnotationRecord.project_id == project, AnnotationRecord.completed_by == person.label_user
                )
            )
        )  # their own skips
        ids -= set(
            session.scalars(
                select(OutboxRecord.task_id).where(
                    OutboxRecord.project_id == project,
                    OutboxRecord.mode == CLASSES,
                    OutboxRecord.withdrawn.is_(False),
                    OutboxRecord.is_skip.is_(False) | (OutboxRecord.person == person.id),
                )
            )
        )
        skips = select(OutboxRecord.person, OutboxRecord.task_id).where(
            OutboxRecord.project_id == project,
            OutboxRecord.mode == CLASSES,
            OutboxRecord.withdrawn.is_(False),
            OutboxRecord.is_skip.is_(True),
        )
        skipped = {(str(who), int(task)) for who, task in session.execute(skips)}
        held: set[int] = set()
        ahead: dict[int, list[str]] = defaultdict(list)
        for card in session.scalars(
            select(CardRecord).where(
                CardRecord.project_id == project, CardRecord.mode == CLASSES, CardRecord.until > now
            )
        ):
            if card.person == person.id:
                held.add(card.task_id)
            elif (card.person, card.task_id) in skipped:
                continue  # they left it to others
            elif card.shown_at is None:
                ahead[card.task_id].append(card.person)
            else:
                ids.discard(card.task_id)
        try:
            ranks = self._ranks.of(project, order or ORDERS[0])
        except StorageError:
            ranks = {}  # the worker makes it again; the order of the tasks serves meanwhile
        ordered = sorted(ids, key=lambda task: (task not in held, ranks.get(task, np.inf), task))
        return [
            OpenPicture(task, task in held, () if task in held else tuple(ahead.get(task, ())))
            for task in ordered
        ]

    def suggestions(self, project_id: int, tasks: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """What the model thinks each picture shows, best first; nothing for tasks it has no idea of.

        One class where only one is wanted; otherwise those that would be pushed as a prediction.
        """
        version = self._ranks.version(project_id)
        if not version or not tasks:
            return {}
        try:
            tables = self._services.pools.of(project_id, version).read(tasks)
        except StorageError:
            return {}
        found = {}
        is_exclusive = self._target.wanted.exclusive
        for task, table in tables.items():
            rows = [
                i for i in np.argsort(-table.score).tolist() if str(table.label[i]) in self._target.labels
            ]
            shown = [i for i in rows if table.score[i] >= self._settings.push_min_score]
            if shown:
                found[task] = tuple(str(table.label[i]) for i in shown[: 1 if is_exclusive else len(shown)])
        return found
