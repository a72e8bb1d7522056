"""Masks that review accepted, as training data of the next round (setting ``train_on_propagated``).

On tasks that nobody has finished, review decides about the masks that the model found. Accepted ones become
examples that weigh as much as they are trusted: 1 when a person saw the mask, else the certified purity of
its cluster. Rejected ones are background. All other detections are areas that are neither object nor
background, since an object that nobody confirmed must not be learnt as background (Papadopoulos et al. 2021).

Two bounds keep what people drew in charge: at most two such tasks for each finished one, those about which
most is decided; and no label has more than 1.1 times its share among drawn objects (algorithms of the same
paper), else masks of it, drawn at random, become undecided again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pools import read_pool
from ml_backend.artifacts.verdicts import read_verdicts
from ml_backend.errors import BadImage
from ml_backend.examples import Example
from ml_backend.images.store import ImageStore
from ml_backend.kinds.registry import Wanted
from sync.rounds.cluster import labels_as_then
from sync.rounds.task_queries import open_task_ids, task_images
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["capped", "propagated_examples", "propagated_rows"]

_TASKS_PER_FINISHED = 2
_MOST_SHARE = 1.1
_UNDECIDED_SCORE = 0.2
"""Detections below this are background like any other place."""


def propagated_rows(
    db: ProjectStore,
    paths: ProjectPaths,
    last: RoundRecord,
    drawn: Sequence[Mapping[str, Any]],
    *,
    wanted: Sequence[Wanted],
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of a snapshot, one per task: ``task``, ``image``, ``regions`` with ``weight``, ``ignore`` (RLEs).

    ``last`` is the round whose verdicts count, ``drawn`` the rows that people finished, ``wanted`` what the
    project wants now: nothing is learnt from what meant another kind then. Empty when nothing is accepted on
    an unfinished task. Raises StorageError when pool or verdicts are damaged.
    """
    verdicts = read_verdicts(paths.round(last.number))
    if not len(verdicts):
        return []
    is_open = open_task_ids(db)
    columns = ("key", "task_id", "label", "rle", "score")
    pool = read_pool(paths.pool(last.model_version), columns=columns, task_ids=is_open)
    then = labels_as_then(paths, last.number, wanted)
    pool = pool.take(np.isin(pool.label.astype(str), sorted(then)))
    found = [verdicts.get(key) for key in pool.key.tolist()]
    verdict = np.array([0 if v is None else v.verdict for v in found], np.int64)
    trust = np.array(
        [0.0 if v is None else 1.0 if v.verified else np.nan_to_num(v.lower) for v in found], np.float64
    )
    accepted = (verdict > 0) & (trust > 0)
    undecided = ~accepted & (verdict >= 0) & (pool.score >= _UNDECIDED_SCORE)
    chosen = _best_known(pool.task_id, accepted, undecided, most=_TASKS_PER_FINISHED * len(drawn))
    accepted &= np.isin(pool.task_id, chosen)
    human = Counter(str(region["label"]) for row in drawn for region in row["regions"] if region["rle"])
    kept = capped(pool.label, accepted, human, seed=seed)
    undecided |= accepted & ~kept
    images = task_images(db)
    rows = []
    for task in chosen.tolist():
        mine = pool.task_id == task
        regions = [
            {"label": str(pool.label[i]), "rle": pool.rle(int(i)), "weight": round(float(trust[i]), 4)}
            for i in np.flatnonzero(mine & kept)
        ]
        ignore = [pool.rle(int(i)) for i in np.flatnonzero(mine & undecided)]
        if regions:
            rows.append({"task": task, "image": images[task], "regions": regions, "ignore": ignore})
    return rows


def _best_known(
    task_id: npt.NDArray[np.int64],
    accepted: npt.NDArray[np.bool_],
    undecided: npt.NDArray[np.bool_],
    *,
    most: int,
) -> npt.NDArray[np.int64]:
    """At most so many tasks with an accepted mask, those with the smallest share of undecided ones."""
    tasks, place = np.unique(task_id, return_inverse=True)
    good = np.bincount(place, accepted, len(tasks))
    open_share = np.bincount(place, undecided, len(tasks)) / np.maximum(
        np.bincount(place, accepted | undecided, len(tasks)), 1
    )
    order = np.lexsort((tasks, -good, open_share))
    return np.sort(tasks[order[good[order] > 0][:most]])


def capped(
    label: npt.NDArray[np.object_],
    accepted: npt.NDArray[np.bool_],
    human: Mapping[str, int],
    *,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Which accepted masks may be used so that no label exceeds 1.1 times its share among drawn objects.

    ``human``: drawn objects by label. A label that nobody drew gets none.
    """
    drawn = sum(human.values())
    there = Counter(label[accepted].tolist())
    allowed = {name: count for name, count in there.items() if human.get(name)}
    while True:
        total = drawn + sum(allowed.values())
        lower = {
            name: max(0, min(count, int(_MOST_SHARE * human[name] / drawn * total) - human[name]))
            for name, count in allowed.items()
        }
        if lower == allowed:
            break
        allowed = lower
    rng = np.random.default_rng([seed, 17])
    kept = np.zeros(len(label), np.bool_)
    for name in sorted(allowed):
        rows = np.flatnonzero(accepted & (label == name))
        kept[rng.permutation(rows)[: allowed[name]]] = True
    return kept


def propagated_examples(
    db: ProjectStore, images: ImageStore, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> tuple[Example, ...]:
    """The rows as examples. Tasks whose image cannot be read now, or was replaced, are left out."""
    number = {name: i for i, name in enumerate(labels)}
    examples = []
    for row in rows:
        try:
            ref = images.get(str(row["image"]), task_id=int(row["task"]), project_id=db.id)
        except BadImage:
            continue  # `infer` notes and reports it
        masks = [region["rle"] for region in row["regions"]] + list(row["ignore"])
        if any(tuple(rle["size"]) != ref.hw for rle in masks):
            continue
        examples.append(
            Example(
                task_id=int(row["task"]),
                image=ref.path,
                label=tuple(number[region["label"]] for region in row["regions"]),
                rle=tuple(region["rle"] for region in row["regions"]),
                ignore=tuple(row["ignore"]),
                weight=tuple(float(region["weight"]) for region in row["regions"]),
            )
        )
    return tuple(examples)
