"""What watches a worker: it is told what happens, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sync.worker.look import LookReport

__all__ = ["Observer", "Observers"]


class Observer:
    """Is called in the worker's own thread; does nothing. Methods must be quick and must not raise."""

    def alive(self) -> None:
        """The worker came to a boundary of its work, or waits for the next look."""

    def progressed(self, project_id: int, step: str, share: float) -> None:
        """A step of a look is done by this share, 0..1."""

    def looked(self, project_id: int, found: LookReport | None, seconds: float) -> None:
        """A look is over; ``found`` is None when another worker holds the project."""

    def trained(self, project_id: int) -> None:
        """A training beside the looks made a model version."""

    def lease_lost(self, project_id: int) -> None:
        """Another worker took the project over while this one looked at it."""


class Observers(Observer):
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def alive(self) -> None:
        for one in self._observers:
            one.alive()

    def progressed(self, project_id: int, step: str, share: float) -> None:
        for one in self._observers:
            one.progressed(project_id, step, share)

    def looked(self, project_id: int, found: LookReport | None, seconds: float) -> None:
        for one in self._observers:
            one.looked(project_id, found, seconds)

    def trained(self, project_id: int) -> None:
        for one in self._observers:
            one.trained(project_id)

    def lease_lost(self, project_id: int) -> None:
        for one in self._observers:
            one.lease_lost(project_id)
