"""From a task's picture to its embedding: address, content, pixels, encoder, with the time of each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickSegmenter, Embedding
from ml_backend.clicks.device_gate import DeviceGate, gate_for
from ml_backend.clicks.serving.embeddings import EmbeddingStore, Found
from ml_backend.clicks.serving.prewarm import TaskRef
from ml_backend.errors import BadImage
from ml_backend.images.store import ImageRef

__all__ = ["ImageSource", "Observe", "PhaseTimes", "TaskImages"]

Observe = Callable[[str, float], None]
"""Called with (phase, seconds): fetch, decode, encode, wait, segment, serialise."""


class ImageSource(Protocol):
    """What clicks need of ``ml_backend.images.store.ImageStore``. Both raise BadImage."""

    def get(self, value: str, *, task_id: int | None = None, project_id: int | None = None) -> ImageRef:
        """The image behind an address; from the image cache when it is there."""
        ...

    def pixels(self, ref: ImageRef) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright, read-only."""
        ...


class PhaseTimes:
    """Seconds by phase of one request; each is also passed on to ``observe``."""

    def __init__(self, observe: Observe | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._observe = observe

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Time a block, also when it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.note(phase, time.perf_counter() - began)

    def note(self, phase: str, seconds: float) -> None:
        """Add to the time of a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        if self._observe is not None:
            self._observe(phase, seconds)


class TaskImages:
    """Pictures of tasks and their embeddings. Thread-safe."""

    def __init__(self, images: ImageSource, store: EmbeddingStore) -> None:
        self._images = images
        self._store = store

    def find(self, task: TaskRef, times: PhaseTimes) -> ImageRef:
        """The picture behind a task's address as it is now. Raises BadImage, StudioError."""
        with times.timed("fetch"):
            return self._get(task)

    def embedding(
        self, task: TaskRef, image: ImageRef, segmenter: ClickSegmenter, priority: int, times: PhaseTimes
    ) -> Found:
        """The embedding of a picture; several callers share one encode. Raises BadImage, ModelError."""

        def load() -> npt.NDArray[np.uint8]:
            with times.timed("decode"):
                return self._pixels(task, image)

        def encode(pixels: npt.NDArray[np.uint8]) -> Embedding:
            with times.timed("encode"):
                return segmenter.embed(pixels)

        began = time.perf_counter()
        found = self._store.get_or_make(
            image.sha,
            segmenter.encoder,
            load,
            encode,
            # Without an encoder nothing runs on the device, so there is nothing to wait for.
            gate=gate_for(segmenter.device) if segmenter.persist else DeviceGate(),
            priority=priority,
            persist=segmenter.persist,
        )
        if found.tier == "joined":
            times.note("wait", time.perf_counter() - began)
        return found

    def pixels(self, task: TaskRef, image: ImageRef) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of a picture that ``find`` gave. Raises BadImage."""
        return self._pixels(task, image)

    def _get(self, task: TaskRef) -> ImageRef:
        return self._images.get(
            task.url, task_id=task.task_id or None, project_id=task.project.project_id or None
        )

    def _pixels(self, task: TaskRef, image: ImageRef) -> npt.NDArray[np.uint8]:
        """Pixels of a picture; fetched again when the image cache dropped its file meanwhile."""
        try:
            return self._images.pixels(image)
        except BadImage:
            if image.path.exists():
                raise
        again = self._get(task)
        if again.sha != image.sha:
            raise BadImage(
                "the image changed while it was being clicked", field="task.data", hint="Click again"
            )
        return self._images.pixels(again)
