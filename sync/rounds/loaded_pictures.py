"""The pictures of tasks, fetched ahead of their use, in batches.

Here pictures are fetched, for tasks on other machines too: the checks on addresses hold in one place, and
only this process needs the token of Label Studio.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadImage, ImageUnavailable
from ml_backend.images.decode import decode_image
from ml_backend.images.store import ImageRef, ImageStore

__all__ = ["Loaded", "Picture", "loaded_batches", "pixels_of"]

_log = logging.getLogger(__name__)
_FETCHERS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as a task gets it: its ``pixels``, (H, W, 3) uint8 RGB, or the bytes of its file.

    ``max_pixels`` limits what is decoded.
    """

    pixels: npt.NDArray[np.uint8] | None
    data: bytes = b""
    max_pixels: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """One task's picture, or why it could not be read; ``passes`` says that the fault may pass."""

    task: int
    image: str
    ref: ImageRef | None
    picture: Picture | None
    error: str
    passes: bool = False


def pixels_of(picture: Picture) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, read-only or not. Raises BadImage when the file is damaged."""
    if picture.pixels is not None:
        return picture.pixels
    return decode_image(picture.data, max_pixels=picture.max_pixels)


def loaded_batches(
    images: ImageStore,
    project_id: int,
    tasks: Sequence[int],
    addresses: Mapping[int, str],
    *,
    size: int,
    encoded: bool,
    max_pixels: int,
) -> Generator[list[Loaded]]:
    """Batches of ``size`` pictures, the next batch being fetched while one is used.

    ``encoded``: the bytes of files, which are not decoded here; else pixels.
    """
    with ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch") as threads:

        def load(task: int) -> Loaded:
            return _load(images, project_id, task, addresses[task], encoded=encoded, max_pixels=max_pixels)

        ahead: deque[list[Future[Loaded]]] = deque()
        for start in range(0, len(tasks), size):
            ahead.append([threads.submit(load, task) for task in tasks[start : start + size]])
            if len(ahead) > 1:
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]


def _load(
    images: ImageStore, project_id: int, task: int, image: str, *, encoded: bool, max_pixels: int
) -> Loaded:
    try:
        ref = images.get(image, task_id=task, project_id=project_id)
        picture = Picture(None, images.data(ref), max_pixels) if encoded else Picture(images.pixels(ref))
        return Loaded(task, image, ref, picture, "")
    except BadImage as error:
        _log.warning("project %s task %s: %s", project_id, task, error)
        return Loaded(task, image, None, None, str(error), isinstance(error, ImageUnavailable))
