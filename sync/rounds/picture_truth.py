"""What was wrong on the pictures of the frozen test split: the truth that doubts are calibrated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_index import PoolIndex
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.pools import read_pool
from ml_backend.kinds.base import LabelledMask
from ml_backend.label_studio.label_config import LabelConfig
from sync.rounds.known_masks import match_drawn
from sync.rounds.region_rows import drawn_masks, fits, lacks_masks
from sync.rounds.task_queries import drawn_test_ids, finished_tasks, finished_test_ids
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["Fixes", "fixes_needed", "fixes_of_test_pictures"]

_COLUMNS = ("key", "task_id", "label", "rle", "score", "quality")


@dataclass(frozen=True, slots=True)
class Fixes:
    """What a person had to mend on one picture.

    ``objects`` that are there, ``shown`` by the model, ``found``: of these, good ones of different objects.
    """

    objects: int
    shown: int
    found: int

    @property
    def count(self) -> int:
        """Objects to draw, place anew or remove; a bad mask of an object is mended once."""
        return max(self.objects, self.shown) - self.found

    @property
    def share(self) -> float:
        """``count`` per object looked at, 0..1: neither crowded nor empty pictures have an advantage."""
        return self.count / max(self.objects, self.shown, 1)


def fixes_needed(
    table: PoolTable,
    drawn: Mapping[int, Sequence[LabelledMask]],
    config: LabelConfig,
    *,
    shown_from: float,
) -> dict[int, Fixes]:
    """Fixes by task.

    ``drawn`` holds what a model should have found, by task, at the size of the masks of the ``table``.
    Instances with a score of ``shown_from`` or more are shown, of classes that exclude each other only the
    likeliest; they are good when their IoU exceeds what their kind asks for.
    """
    shown = table.take(_shown(table, config, shown_from))
    kinds = [config.kind_of(label) for label in config.labels]
    known = match_drawn(shown, drawn, config.labels, kinds)
    good = known.good & (known.object >= 0)
    pairs = np.unique(np.stack([known.picture[good], known.object[good]], axis=1), axis=0)
    found = dict(zip(*np.unique(pairs[:, 0], return_counts=True), strict=True))
    count = dict(zip(*np.unique(known.picture, return_counts=True), strict=True))
    objects = dict(zip(known.pictures.tolist(), known.objects.sum(axis=1).tolist(), strict=True))
    return {
        task: Fixes(int(there), int(count.get(task, 0)), int(found.get(task, 0)))
        for task, there in objects.items()
    }


def _shown(table: PoolTable, config: LabelConfig, shown_from: float) -> npt.NDArray[np.bool_]:
    shown = np.asarray(table.score >= shown_from, np.bool_)
    for target in config.wanted:
        if target.exclusive and target.is_of.unit == "picture":
            rows = np.flatnonzero(shown & np.isin(table.label.astype(str), target.labels))
            order = rows[np.lexsort((-table.score[rows], table.task_id[rows]))]
            _, first = np.unique(table.task_id[order], return_index=True)
            shown[rows] = False
            shown[order[first]] = True
    return shown


def fixes_of_test_pictures(
    db: ProjectStore,
    paths: ProjectPaths,
    index: PoolIndex,
    record: RoundRecord,
    config: LabelConfig,
    *,
    shown_from: float,
) -> dict[int, Fixes]:
    """Fixes of the finished test pictures that the version of a round looked at. Raises StorageError."""
    test = set(finished_test_ids(db, record.split)) & drawn_test_ids(db, record.split)
    drawn: dict[int, Sequence[LabelledMask]] = {}
    for task, (_, annotation) in finished_tasks(db).items() if test else ():
        entry = index.entry(task)
        if lacks_masks(config.wanted, annotation.regions):
            continue
        if task in test and entry is not None and not entry.error and fits(annotation.regions, entry.hw):
            drawn[task] = drawn_masks(config.wanted, annotation.regions, entry.hw)
    if not drawn:
        return {}
    table = read_pool(paths.pool(record.model_version), columns=_COLUMNS, task_ids=drawn, index=index)
    return fixes_needed(table, drawn, config, shown_from=shown_from)
