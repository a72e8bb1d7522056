"""Known masks: what a round's model finds on the pictures of its test split, and which of it is right.

People drew every object there and the model was not trained on them, so the truth of these predictions is
known for free. They teach the verifier (``load_lessons``), serve as gold questions, and tell which share of
all objects is found. The infer step keeps them in the pool of the version, beside the unfinished tasks.

Two other sources of masks with known truth are left out on purpose. The pool of an earlier round was filled
by another model, whose embeddings mean something else. Tasks drawn during this round were served least
certain first, with the model's own masks on them to start from: they are no random pictures, and what was
drawn there depends on the predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from clustering.arrays import Bools, Floats, Ints
from clustering.project_pool import Lessons
from ml_backend.artifacts.files import read_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import PoolTable
from ml_backend.artifacts.pools import read_pool
from ml_backend.kinds.base import LabelledMask, ProjectKind
from ml_backend.kinds.instances import INSTANCES
from ml_backend.kinds.registry import Wanted
from sync.rounds.cluster import kinds_in, label_pool, usable_rows
from sync.rounds.infer import pool_index
from sync.rounds.progress import Memo
from sync.rounds.region_rows import drawn_masks, fits, lacks_masks
from sync.rounds.task_queries import drawn_test_ids, finished_digests, finished_tasks
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["KnownMasks", "load_known_masks", "load_lessons", "match_drawn"]


@dataclass(frozen=True, slots=True, eq=False)
class KnownMasks:
    """k predictions on test pictures, matched with what people drew on these pictures.

    Attributes
    ----------
    labels, kinds : names of the labels, and their kinds
    table : the predictions, k rows
    label : (k,) int64, number of the label
    iou : (k,) float64, largest IoU with a drawn mask of the same label, 0 where there is none
    object : (k,) int64, that drawn mask's place among the regions of its picture, -1 where there is none
    picture : (k,) int64, task
    pictures : (t,) int64, the test pictures that the model could read, ascending, also those without masks
    objects : (t, labels) int64, drawn masks by picture and label
    """

    labels: tuple[str, ...]
    kinds: tuple[ProjectKind, ...]
    table: PoolTable
    label: Ints
    iou: Floats
    object: Ints
    picture: Ints
    pictures: Ints
    objects: Ints

    def __len__(self) -> int:
        return len(self.table)

    @property
    def good(self) -> Bools:
        """(k,) bool, whether the IoU exceeds what the kind of the label asks for."""
        enough = np.array([kind.good_iou for kind in self.kinds], np.float64)
        good: Bools = self.iou > enough[self.label]
        return good


def load_known_masks(
    db: ProjectStore, paths: ProjectPaths, memo: Memo, record: RoundRecord, labels: Sequence[str]
) -> KnownMasks | None:
    """The known masks of a clustered round; None when no test picture can be used.

    A test picture counts while somebody has finished it, the model could read it, and the regions were drawn
    on an image of the same size. Masks that the cluster step would have left out are left out here, too. (It
    notes the lowest score since this module exists; rounds that were clustered earlier have no known masks.)
    Annotations that changed are matched anew. Raises StorageError when the pool is gone.
    """
    frozen = read_json(paths.round(record.number) / "pool.json")
    if "min_score" not in frozen:
        return None
    of_label = kinds_in(frozen)
    kinds = [of_label.get(label, INSTANCES) for label in labels]
    wanted_labels = [Wanted(kind.name, (label,)) for kind, label in zip(kinds, labels, strict=True)]
    index = pool_index(paths, memo, record.model_version)
    digests = finished_digests(db)
    wanted = sorted(drawn_test_ids(db, record.split) & digests.keys())
    state = (
        record.number,
        record.model_version,
        record.split,
        index.parts,
        tuple((task, digests[task]) for task in wanted),
    )
    name = ("known masks", db.id, tuple(labels))
    kept = memo.get(name)
    if isinstance(kept, tuple) and kept[0] == state:
        found: KnownMasks | None = kept[1]
        return found
    drawn = {task: rows for task, (_, rows) in finished_tasks(db).items() if task in wanted}
    masks: dict[int, Sequence[LabelledMask]] = {}
    for task, annotation in drawn.items():
        entry = index.entry(task)
        if lacks_masks(wanted_labels, annotation.regions):
            continue
        if entry is not None and not entry.error and fits(annotation.regions, entry.hw):
            masks[task] = drawn_masks(wanted_labels, annotation.regions, entry.hw)
    fresh = None
    if masks:
        table = read_pool(paths.pool(record.model_version), task_ids=masks, index=index)
        kept_rows = np.flatnonzero(usable_rows(table) & (table.score >= float(frozen["min_score"])))
        fresh = match_drawn(table.take(kept_rows), masks, labels, kinds)
    memo[name] = (state, fresh)
    return fresh


def load_lessons(
    db: ProjectStore, paths: ProjectPaths, memo: Memo, record: RoundRecord, labels: Sequence[str]
) -> Lessons | None:
    """The known masks as lessons of the verifier, with the same features as the pools of the labels.

    ``labels`` are the labels of the project's pools, in their order. The same object as long as nothing
    changed. None when there is no known mask.
    """
    known = load_known_masks(db, paths, memo, record, labels)
    if known is None or not len(known):
        return None
    name = ("lessons", db.id)
    kept = memo.get(name)
    if isinstance(kept, tuple) and kept[0] is known:
        found: Lessons = kept[1]
        return found
    lessons = Lessons(label_pool(known.table), known.label, known.good, known.picture)
    memo[name] = (known, lessons)
    return lessons


def match_drawn(
    table: PoolTable,
    drawn: Mapping[int, Sequence[LabelledMask]],
    labels: Sequence[str],
    kinds: Sequence[ProjectKind],
) -> KnownMasks:
    """Match each prediction with the drawn mask of its label that it overlaps most.

    Parameters
    ----------
    table : predictions; those with another label or on another picture are left out
    drawn : what a model should find, by task
    labels, kinds : names of the labels, and the kind of each

    Time: one IoU for each pair of a prediction and a drawn mask of a picture.
    """
    number = {label: i for i, label in enumerate(labels)}
    pictures = np.array(sorted(drawn), np.int64)
    known_label = np.array([str(label) in number for label in table.label], bool)
    table = table.take(np.flatnonzero(known_label & np.isin(table.task_id, pictures)))
    table = table.take(np.argsort(table.key.astype(str), kind="stable"))
    label = np.array([number[str(name)] for name in table.label], np.int64)
    iou, best = np.zeros(len(table)), np.full(len(table), -1, np.int64)
    objects = np.zeros((len(pictures), len(labels)), np.int64)
    for place, task in enumerate(pictures.tolist()):
        of_region = np.array([number.get(name, -1) for name, _ in drawn[task]], np.int64)
        for i in range(len(labels)):
            there = np.flatnonzero(of_region == i)
            objects[place, i] = len(there)
            rows = np.flatnonzero((table.task_id == task) & (label == i))
            if len(rows) and len(there):
                masks = [drawn[task][j][1] for j in there.tolist()]
                overlap = _overlap([table.rle(int(row)) for row in rows], masks)
                iou[rows] = overlap.max(axis=1)
                best[rows] = np.where(iou[rows] > 0, there[overlap.argmax(axis=1)], -1)
    return KnownMasks(tuple(labels), tuple(kinds), table, label, iou, best, table.task_id, pictures, objects)


def _overlap(masks: Sequence[Any], drawn: Sequence[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(coco.iou(masks, drawn, [0] * len(drawn)), np.float64).reshape(len(masks), -1)
