"""Run batches on a device that may run out of memory: smaller batches first, then the CPU, later the device
again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from ml_backend.device_fallback import DeviceFallback

__all__ = ["GuardedBatches"]

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class GuardedBatches(Generic[Item, Result]):
    """One lock and one device for a model; safe under threads.

    ``run`` computes the results of one batch, ``move`` brings the model to a device. When a GPU runs out of
    memory the batch is halved, and at a batch of one the model moves to the CPU; after a pause the GPU is
    tried again (``fallback``).
    """

    def __init__(
        self,
        model: str,
        device: torch.device,
        *,
        batch: int,
        run: Callable[[Sequence[Item]], list[Result]],
        move: Callable[[torch.device], None],
    ) -> None:
        self.fallback = DeviceFallback(model, str(device))
        self._batch = max(1, batch)
        self._run = run
        self._move = move
        self._lock = threading.Lock()
        move(device)

    def __call__(self, items: Sequence[Item]) -> Iterator[Result]:
        """The result of each item, in order."""
        done = 0
        while done < len(items):
            part = items[done : done + self._batch]
            results = self._guarded(part)
            if results is None:
                continue
            done += len(part)
            yield from results

    def _guarded(self, part: Sequence[Item]) -> list[Result] | None:
        """One batch; None when memory ran out and the caller should try again."""
        with self._lock:
            if self.fallback.is_due():
                self._try_device()
            try:
                with torch.inference_mode():
                    return self._run(part)
            except torch.cuda.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if len(part) > 1:
                    self._batch = len(part) // 2
                    log.warning("the GPU ran out of memory: going on with batches of %d", self._batch)
                else:
                    self._move(torch.device("cpu"))
                    self.fallback.leave("has no memory for a single image", error)
                return None

    def _try_device(self) -> None:
        try:
            self._move(torch.device(self.fallback.wanted))
        except torch.cuda.OutOfMemoryError as error:
            self._move(torch.device("cpu"))
            torch.cuda.empty_cache()
            self.fallback.leave("is still out of memory", error)
        else:
            self.fallback.come_back()
