"""Proposals of the project's pictures, kept on disk: a second search looks only at pictures that are new."""

from __future__ import annotations

import hashlib
import io
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import Guard, write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.devices import resolve_device
from ml_backend.errors import BadInput
from ml_backend.images.store import ImageStore
from ml_backend.instances import Rle
from ml_backend.learners.alike.looks import Looks, describer, propose
from ml_backend.learners.weak.proposals import MaskSource
from ml_backend.learners.weak.sources import get_source
from sync.settings import Settings

__all__ = ["Looker"]

_CANDIDATES = 100
"""that a source gives at most of each of its ways; more take longer and find little more"""

Floats = npt.NDArray[np.float32]


class Looker:
    """Looks at pictures of one project. ``source``: see ``ml_backend.learners.weak.sources``.

    Raises BadInput when the source or the description of masks (``cluster_features``) is not there.
    """

    def __init__(
        self, settings: Settings, paths: ProjectPaths, images: ImageStore, source: str, *, guard: Guard
    ) -> None:
        self._images, self._project, self._guard = images, paths.project_id, guard
        self._describe = describer(settings.cluster_features, device=resolve_device(settings.device))
        self._source = _opened(source)
        self.name = _short(self._source.name, self._describe.name)
        """stands for where proposals come from and how masks are described"""
        self._folder = paths.alike / self.name

    def proposals(self, task: int, address: str) -> Looks:
        """Proposals of a task's picture. Raises BadImage when it cannot be read."""
        path = self._folder / f"t{task}-{_short(address)}.npz"
        kept = _read(path)
        if kept is None:
            kept, _ = propose(self.pixels(task, address), self._describe, self._source)
            write_atomic(path, _packed(kept), guard=self._guard)
        return kept

    def drawn(self, task: int, address: str, rles: Sequence[Rle]) -> Floats:
        """(n, f) of n masks on a task's picture, which have its size. Raises BadImage."""
        return propose(self.pixels(task, address), self._describe, None, drawn=rles)[1]

    def pixels(self, task: int, address: str) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB of a task's picture. Raises BadImage."""
        return self._images.pixels(self._images.get(address, task_id=task, project_id=self._project))


def _opened(source: str) -> MaskSource:
    try:
        return get_source(source, _CANDIDATES)
    except BadInput as error:  # the field and the hint are those of an option of learners
        raise BadInput(
            error.message,
            field="source",
            hint="Set GROUNDSWELL_SEGMENTER to one with a checkpoint, or use classical",
        ) from error


def _short(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def _packed(looks: Looks) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file,
        hw=np.array(looks.hw, np.int64),
        counts=np.array([str(rle["counts"]) for rle in looks.rle], np.str_),
        prior=looks.prior,
        feature=looks.feature,
    )
    return file.getvalue()


def _read(path: Path) -> Looks | None:
    """None when there is no such file, or when it cannot be read: it is made again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            height, width = (int(side) for side in file["hw"])
            rles: list[Rle] = [{"size": [height, width], "counts": str(text)} for text in file["counts"]]
            return Looks((height, width), rles, file["prior"], file["feature"])
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError):
        return None
    except (SyntaxError, tokenize.TokenError):  # the header of an array in it is a Python literal
        return None
