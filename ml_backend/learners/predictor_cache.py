"""Loaded predictors, shared by requests: each version is loaded once per device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.caches import ByteCache
from ml_backend.device_fallback import DeviceFallback, DeviceListener
from ml_backend.learners.base import Predictor
from ml_backend.learners.registry import get_learner

__all__ = ["PredictorCache"]

_MAX_BYTES = 4 * 1024**3


class _Slot:
    """One predictor that is in use or being loaded. Its users share the lock while it loads."""

    __slots__ = ("lock", "predictor", "users")

    def __init__(self, predictor: Predictor | None) -> None:
        self.lock = threading.Lock()
        self.predictor = predictor
        self.users = 0


class PredictorCache:
    """Loaded predictors by (project, version, device): loaded once, and kept while in use.

    ``max_bytes`` limits the weights of predictors that are not in use; the least recently used are dropped
    first. ``device_changed`` is called when a predictor moves from its device to the CPU, and when it moves
    back.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        max_bytes: int = _MAX_BYTES,
        device_changed: DeviceListener | None = None,
    ) -> None:
        self._registry = registry
        self._device_changed = device_changed
        self._lock = threading.Lock()
        self._used: dict[tuple[int, str, str], _Slot] = {}
        self._idle: ByteCache[tuple[int, str, str], Predictor] = ByteCache(
            max_bytes, lambda predictor: predictor.nbytes
        )

    @contextmanager
    def use(self, project_id: int, version: str, *, device: str = "auto") -> Iterator[Predictor]:
        """The predictor of a version, loaded if need be; it stays loaded at least until the block ends."""
        key = (project_id, version, device)
        with self._lock:
            slot = self._used.get(key)
            if slot is None:
                slot = self._used[key] = _Slot(self._idle.get(key))
                self._idle.drop(key)
            slot.users += 1
        try:
            with slot.lock:  # two requests for the same version load it once
                if slot.predictor is None:
                    slot.predictor = self._load(*key)
                predictor = slot.predictor
            yield predictor
        finally:
            with self._lock:
                slot.users -= 1
                if slot.users == 0:
                    del self._used[key]
                    if slot.predictor is not None:  # else its load failed
                        self._idle.put(key, slot.predictor)

    def loaded(self) -> set[tuple[int, str, str]]:
        """Keys of what is loaded now."""
        with self._lock:
            used = {key for key, slot in self._used.items() if slot.predictor is not None}
            return used | set(self._idle.keys())

    def _load(self, project_id: int, version: str, device: str) -> Predictor:
        info = self._registry.info(project_id, version)
        predictor = get_learner(info.learner).load(info.folder, device=device)
        fallback = getattr(predictor, "fallback", None)
        if isinstance(fallback, DeviceFallback) and self._device_changed is not None:
            fallback.watch(self._device_changed)
        return predictor
