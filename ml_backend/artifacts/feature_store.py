"""Feature vectors of whole pictures on disk, by task: one folder per model that gives them.

``<folder>/part-000001-….npz`` holds some tasks each: their ids, the address of the picture at that time, and
the vectors as float16. Parts never change; of several that hold a task the newest counts.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import Guard, unguarded, write_atomic
from ml_backend.errors import StorageError

__all__ = ["add_features", "known_features", "read_features"]

Features = npt.NDArray[np.float32]


def add_features(
    folder: Path,
    task_ids: Sequence[int],
    images: Sequence[str],
    features: Features,
    *,
    guard: Guard = unguarded,
) -> None:
    """Write one more part; values beyond the range of float16 are cut to it."""
    if not len(task_ids):
        return
    limit = float(np.finfo(np.float16).max)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        task_id=np.asarray(task_ids, np.int64),
        image=np.asarray(images, np.str_),
        feature=np.clip(np.nan_to_num(features), -limit, limit).astype(np.float16),
    )
    number = 1 + max((int(path.name.split("-")[1]) for path in _parts(folder)), default=-1)
    write_atomic(folder / f"part-{number:06d}-{os.urandom(4).hex()}.npz", file.getvalue(), guard=guard)


def known_features(folder: Path) -> dict[int, str]:
    """Address of the picture that the newest vector of each task is of. Raises StorageError."""
    found: dict[int, str] = {}
    for path in _parts(folder):
        ids, images = _read(path, "task_id", "image")
        found.update(zip(ids.tolist(), images.tolist(), strict=True))
    return found


def read_features(folder: Path, task_ids: Iterable[int]) -> tuple[npt.NDArray[np.bool_], Features]:
    """(n,) which of the tasks have a vector, and (n, f) float32 vectors, zeros where there is none.

    f is 0 when none of them has one. Parts of another width than the newest are left out. Raises
    StorageError.
    """
    wanted = np.fromiter(task_ids, np.int64)
    there, out = np.zeros(len(wanted), bool), np.zeros((len(wanted), 0), np.float32)
    order = np.argsort(wanted, kind="stable")
    for path in reversed(_parts(folder)):
        ids, feature = _read(path, "task_id", "feature")
        if not len(ids):
            continue
        if not out.shape[1]:
            out = np.zeros((len(wanted), feature.shape[1]), np.float32)
        if feature.shape[1] != out.shape[1]:
            continue
        last = {task: row for row, task in enumerate(ids.tolist())}
        rows = np.array([last.get(task, -1) for task in wanted[order].tolist()], np.int64)
        places = order[(rows >= 0) & ~there[order]]
        out[places] = feature[rows[(rows >= 0) & ~there[order]]]
        there[places] = True
        if there.all():
            break
    return there, out


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.npz"))


def _read(path: Path, first: str, second: str) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[first], file[second]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(
            f"{path} cannot be read ({error})", hint=f"Delete {path.parent}: the worker makes it again"
        ) from error
