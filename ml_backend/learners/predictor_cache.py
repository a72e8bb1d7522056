"""Loaded predictors, shared by requests: each version is loaded once per device."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.learners.base import Predictor
from ml_backend.learners.registry import get_learner

__all__ = ["PredictorCache"]


class _Slot:
    """One loaded predictor, or one being loaded: waiters share the lock."""

    __slots__ = ("lock", "predictor", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.predictor: Predictor | None = None
        self.users = 0


class PredictorCache:
    """Loaded predictors by (project, version, device): loaded once, counted while in use, least recent
    dropped.

    ``capacity`` bounds how many stay loaded; one in use is never dropped, so for a moment there may be more.
    """

    def __init__(self, registry: ModelRegistry, *, capacity: int = 2) -> None:
        self._registry = registry
        self._capacity = max(1, capacity)
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[int, str, str], _Slot] = OrderedDict()

    @contextmanager
    def use(self, project_id: int, version: str, *, device: str = "auto") -> Iterator[Predictor]:
        """The predictor of a version, loaded if need be; it stays loaded at least until the block ends."""
        key = (project_id, version, device)
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            slot.users += 1
        try:
            with slot.lock:  # two requests for one cold version load it once
                if slot.predictor is None:
                    info = self._registry.info(project_id, version)
                    slot.predictor = get_learner(info.learner).load(info.folder, device=device)
                predictor = slot.predictor
            yield predictor
        finally:
            with self._lock:
                slot.users -= 1
                self._shrink()

    def loaded(self) -> list[tuple[int, str, str]]:
        """Keys of what is loaded now, least recently used first."""
        with self._lock:
            return [key for key, slot in self._slots.items() if slot.predictor is not None]

    def _shrink(self) -> None:
        for key in [k for k, s in self._slots.items() if s.users == 0 and s.predictor is None]:
            del self._slots[key]  # a load that failed
        idle = [key for key, slot in self._slots.items() if slot.users == 0]
        for key in idle[: max(0, len(self._slots) - self._capacity)]:
            del self._slots[key]
