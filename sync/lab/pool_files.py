"""Stored pools with known truth: read and write the files that ``groundswell simulate`` uses.

NumPy archive (.npz): ``embedding`` (n, d), ``score`` (n,), ``quality`` (n,), ``extras`` (n, k), ``iou`` (n,)
true mask IoU, ``label`` (n,) int64 class index, ``labels`` (c,) names of the classes. ``extras``, ``label``
and ``labels`` may be absent (no further features; one class). So may ``image`` (n,) int64, number of the
picture that an instance is on, and ``objects`` (pictures, c) int64, how many true objects of each class a
picture shows. Parquet: the same columns of n rows, ``embedding`` and ``extras`` as lists of numbers,
``label`` as the class's name.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.pool import Pool
from ml_backend.errors import BadInput

__all__ = ["KnownPool", "read_pool", "write_pool"]


@dataclass(frozen=True, slots=True, eq=False)
class KnownPool:
    """The pool of one label, and what is known of its instances.

    Attributes
    ----------
    label : name of the label
    pool : n instances
    iou : (n,) float64, true mask IoU
    image : (n,) int64, number of the picture each is on; None = not known
    objects : (pictures,) int64, true objects of this label on each picture; None = not known
    """

    label: str
    pool: Pool
    iou: npt.NDArray[np.float64]
    image: npt.NDArray[np.int64] | None = None
    objects: npt.NDArray[np.int64] | None = None

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> KnownPool:
        """The given instances (indices or mask) only."""
        pool = Pool(
            embedding=self.pool.embedding[rows],
            score=self.pool.score[rows],
            quality=self.pool.quality[rows],
            extras=self.pool.extras[rows],
        )
        image = None if self.image is None else self.image[rows]
        return KnownPool(self.label, pool, self.iou[rows], image, self.objects)


def read_pool(path: Path) -> list[KnownPool]:
    """Read a pool file: one entry per class that has instances, in the order of the classes.

    Raises
    ------
    BadInput : the file is missing, unreadable, lacks a column, or a column does not fit the others
    """
    columns = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    for name in ("embedding", "score", "quality", "iou"):
        if name not in columns:
            raise BadInput(
                f"{path} has no column {name!r}",
                field="pool",
                hint="a pool file needs embedding, score, quality and iou; `groundswell pool` writes one",
            )
    iou = columns["iou"].astype(np.float64)
    n = len(iou)
    if n and not (np.isfinite(iou).all() and iou.min() >= 0.0 and iou.max() <= 1.0):
        raise BadInput(f"{path}: a true IoU is not within 0..1", field="pool", hint="Column iou holds shares")
    label = columns.get("label", np.zeros(n, np.int64))
    labels = [str(name) for name in columns.get("labels", np.array(["all"]))]
    if len(label) != n or (n and (label.min() < 0 or label.max() >= len(labels))):
        raise BadInput(
            f"{path}: label does not give every one of {n} instances one of {labels}", field="pool"
        )
    image, objects = columns.get("image"), columns.get("objects")
    if image is not None and image.shape != (n,):
        raise BadInput(
            f"{path}: image is {image.shape}, expected one number for each of {n} instances", field="pool"
        )
    if objects is not None and (objects.ndim != 2 or objects.shape[1] != len(labels)):
        raise BadInput(
            f"{path}: objects is {objects.shape}, expected a column for each of {labels}", field="pool"
        )
    known = []
    for index, name in enumerate(labels):
        rows = np.flatnonzero(label == index)
        if not len(rows):
            continue
        try:
            pool = Pool(
                embedding=columns["embedding"][rows].astype(np.float32),
                score=columns["score"][rows].astype(np.float32),
                quality=columns["quality"][rows].astype(np.float32),
                extras=columns.get("extras", np.zeros((n, 0)))[rows].astype(np.float32),
            )
        except (ValueError, IndexError) as error:
            raise BadInput(f"{path}: {error}", field="pool") from error
        known.append(
            KnownPool(
                name,
                pool,
                iou[rows],
                None if image is None else image[rows].astype(np.int64),
                None if objects is None else objects[:, index].astype(np.int64),
            )
        )
    return known


def write_pool(path: Path, known: list[KnownPool]) -> None:
    """Write a pool file as a NumPy archive; all classes need the same number of features.

    Pictures and objects are written if every class has them.
    """
    more: dict[str, npt.NDArray[Any]] = {}
    images = [entry.image for entry in known if entry.image is not None]
    if known and len(images) == len(known):
        more["image"] = np.concatenate(images)
    objects = [entry.objects for entry in known if entry.objects is not None]
    if known and len(objects) == len(known):
        more["objects"] = np.stack(objects, axis=1)
    labels = np.array([entry.label for entry in known], np.str_)
    np.savez(
        path,
        embedding=np.concatenate([entry.pool.embedding for entry in known]),
        score=np.concatenate([entry.pool.score for entry in known]),
        quality=np.concatenate([entry.pool.quality for entry in known]),
        extras=np.concatenate([entry.pool.extras for entry in known]),
        iou=np.concatenate([entry.iou for entry in known]),
        label=np.repeat(np.arange(len(known)), [len(entry.pool) for entry in known]).astype(np.int64),
        labels=labels,
        **more,  # type: ignore[arg-type]
    )


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise BadInput(
            f"{path} does not exist", field="pool", hint="`groundswell pool` writes one"
        ) from error
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise BadInput(f"{path} is no NumPy archive: {error}", field="pool") from error


def _read_parquet(path: Path) -> dict[str, npt.NDArray[Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (FileNotFoundError, pyarrow.ArrowException) as error:
        raise BadInput(f"{path} cannot be read as Parquet: {error}", field="pool") from error
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name in ("embedding", "extras"):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            width = len(flat) // len(column) if len(column) else 0
            if width * len(column) != len(flat):
                raise BadInput(f"{path}: the lists of {name} have different lengths", field="pool")
            columns[name] = flat.reshape(len(column), width)
        elif name == "label":
            labels, index = np.unique(np.array(column.to_pylist(), np.str_), return_inverse=True)
            columns["label"], columns["labels"] = index.astype(np.int64), labels
        elif name in ("score", "quality", "iou", "image"):
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns
