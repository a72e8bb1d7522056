"""What watches a worker: it is told what happens, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sync.store.schedule import Kind
    from sync.worker.look import LookReport

__all__ = ["Observer", "Observers"]


class Observer:
    """Is called in the worker's own threads; does nothing. Methods must be quick and must not raise."""

    def alive(self, kind: Kind, project_id: int | None) -> None:
        """Work of this kind moved on: it came to a boundary at a project, or waits (None)."""

    def progressed(self, project_id: int, step: str, share: float) -> None:
        """A step of a look is done by this share, 0..1."""

    def looked(self, project_id: int, found: LookReport | None, seconds: float) -> None:
        """A look is over; ``found`` is None when another worker holds the project."""

    def trained(self, project_id: int, found: LookReport) -> None:
        """A training beside the looks is over: it made a model version, failed, or had nothing to do."""

    def lease_lost(self, project_id: int) -> None:
        """Another worker took the project over while this one looked at it."""


class Observers(Observer):
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def alive(self, kind: Kind, project_id: int | None) -> None:
        for one in self._observers:
            one.alive(kind, project_id)

    def progressed(self, project_id: int, step: str, share: float) -> None:
        for one in self._observers:
            one.progressed(project_id, step, share)

    def looked(self, project_id: int, found: LookReport | None, seconds: float) -> None:
        for one in self._observers:
            one.looked(project_id, found, seconds)

    def trained(self, project_id: int, found: LookReport) -> None:
        for one in self._observers:
            one.trained(project_id, found)

    def lease_lost(self, project_id: int) -> None:
        for one in self._observers:
            one.lease_lost(project_id)
