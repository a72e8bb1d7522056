"""Fingerprints of the pictures of finished tasks: content hash and perceptual hash, made once per picture.

``mistakes/fingerprints.parquet`` holds them by task, with the address they were made from.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadImage
from ml_backend.images.fingerprints import WORDS, fingerprint
from ml_backend.images.store import ImageStore
from sync.rounds.progress import Progress

__all__ = ["Fingerprint", "ensure_fingerprints", "words_of"]

_SAVE_EVERY = 500


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``image``: address it was made from; ``sha``: content hash; ``bits``: 32 bytes, empty for an even
    picture."""

    image: str
    sha: str
    bits: bytes

    @property
    def words(self) -> npt.NDArray[np.uint16]:
        """(16,) uint16, see ``ml_backend.images.fingerprints``."""
        return np.frombuffer(self.bits, np.uint16)


def ensure_fingerprints(
    paths: ProjectPaths,
    images: ImageStore,
    progress: Progress,
    addresses: Mapping[int, str],
    *,
    guard: Guard = unguarded,
) -> dict[int, Fingerprint]:
    """Fingerprints by task; those that are missing are made. Pictures that cannot be read have none, and are
    tried again next time. Safe to kill: every 500 are kept."""
    path = paths.mistakes_folder / "fingerprints.parquet"
    known = _read(path)
    found = {
        task: known[task] for task, image in addresses.items() if task in known and known[task].image == image
    }
    todo = [task for task in sorted(addresses) if task not in found]
    for number, task in enumerate(todo, start=1):
        try:
            ref = images.get(addresses[task], task_id=task, project_id=paths.project_id)
            bits = fingerprint(images.pixels(ref))
        except BadImage:
            continue  # the steps that need the picture say so
        found[task] = Fingerprint(addresses[task], ref.sha, b"" if bits is None else bits.tobytes())
        if number % _SAVE_EVERY == 0:
            progress.at("mistakes.fingerprints")
            _write(path, found, guard)
            progress.report("mistakes", 0.5 * number / len(todo), f"{number} of {len(todo)} pictures read")
    if todo or found.keys() != known.keys():
        _write(path, found, guard)
    return found


def _read(path: Any) -> dict[int, Fingerprint]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = file.read().to_pylist()
        return {row["task_id"]: Fingerprint(row["image"], row["sha"], row["bits"]) for row in rows}
    except FileNotFoundError:
        return {}
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return {}  # damaged: made again


def _write(path: Any, found: Mapping[int, Fingerprint], guard: Guard) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = sorted(found)
    table = pa.table(
        {
            "task_id": pa.array(ids, pa.int64()),
            "image": pa.array([found[task].image for task in ids], pa.string()),
            "sha": pa.array([found[task].sha for task in ids], pa.string()),
            "bits": pa.array([found[task].bits for task in ids], pa.binary()),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    write_atomic(path, file.getvalue(), guard=guard)


def words_of(found: Mapping[int, Fingerprint], tasks: list[int]) -> npt.NDArray[np.uint16]:
    """(n, 16) uint16 of these tasks."""
    rows = [found[task].words for task in tasks]
    return np.stack(rows) if rows else np.zeros((0, WORDS), np.uint16)
